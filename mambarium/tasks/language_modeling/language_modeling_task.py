"""Language modelling: the next token of a text."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from mambarium.backbones.contract import Backbone, SequenceBackbone, SequenceOutput
from mambarium.backbones.published.loading import Resized
from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.tasks.batches import IGNORED_TARGET, TokenBatch
from mambarium.tasks.language_modeling.sampling import pick_next_token
from mambarium.tasks.objective import Objective, PrimaryMetric, TaskMetrics
from mambarium.tasks.task import Task, TrainingOptions


class LanguageMetrics(TaskMetrics):
    """Perplexity and accuracy per token, bits per raw byte, exact: from summed float32 losses and true counts."""

    loss_sum: Tensor
    tokens: Tensor
    correct: Tensor
    bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss_sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("bytes", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def names(self) -> tuple[str, ...]:
        return ("bits_per_byte", "perplexity", "loss", "accuracy")

    def update(self, predictions: Tensor, batch: TokenBatch) -> None:
        """Count logits (batch, length, vocab_size)."""
        losses = F.cross_entropy(
            predictions.flatten(0, 1).float(),
            batch["targets"].flatten(),
            ignore_index=IGNORED_TARGET,
            reduction="none",
        )
        self.loss_sum += losses.double().sum()
        self.tokens += (batch["targets"] != IGNORED_TARGET).sum()
        self.correct += (predictions.argmax(dim=-1) == batch["targets"]).sum()
        self.bytes += batch["num_bytes"].sum()

    def compute(self) -> dict[str, Tensor]:
        mean_loss = self.loss_sum / self.tokens
        return {
            "bits_per_byte": (self.loss_sum / (math.log(2.0) * self.bytes)).float(),
            "perplexity": mean_loss.exp().float(),
            "loss": mean_loss.float(),
            "accuracy": (self.correct / self.tokens).float(),
        }


class LanguageModelingObjective(Objective):
    """Embedding and vocabulary head around a sequence backbone, with cross-entropy.

    Args:
        width: Size of the backbone's vectors.
        vocab_size: Number of tokens.
        tie_embedding: Whether the head uses the embedding's matrix.
        metrics: As `Objective` takes them, of logits (targets, vocab_size) and the tokens (targets,) that follow.
        primary_metric: As `Objective` takes it.
    """

    usual_metric = PrimaryMetric("bits_per_byte", "min")

    def __init__(
        self,
        width: int,
        vocab_size: int,
        tie_embedding: bool = True,
        metrics: Mapping[str, Metric] | None = None,
        primary_metric: str | None = None,
    ) -> None:
        super().__init__(metrics, primary_metric)
        self.embedding = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        if tie_embedding:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, output: SequenceOutput) -> Tensor:
        """Logits (batch, length, vocab_size)."""
        return self.head(output.features)

    def losses(self, features: SequenceOutput, batch: TokenBatch) -> dict[str, Tensor]:
        """Mean cross-entropy per counted target, in nats."""
        logits = self(features).flatten(0, 1).float()
        targets = batch["targets"].flatten()
        return {"cross_entropy": F.cross_entropy(logits, targets, ignore_index=IGNORED_TARGET)}

    def own_metrics(self) -> LanguageMetrics:
        return LanguageMetrics()

    def metric_inputs(self, predictions: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        counted = batch["targets"] != IGNORED_TARGET
        return predictions[counted].float(), batch["targets"][counted]

    def published_names(self) -> dict[str, str]:
        return {name: name for name in ("embedding.weight", "head.weight")}

    def resized(self, parameter_name: str, stored: Tensor) -> Resized | None:
        """Rows of a vocabulary of another size: the first ones are kept, those that are lacking stay as drawn here.

        Published embeddings have rows for tokens that don't exist, up to a multiple of 8; they are cut off like others.
        """
        drawn = self.get_parameter(parameter_name).detach()
        if stored.ndim != 2 or stored.shape[1] != drawn.shape[1]:
            return None
        kept, wanted = min(len(stored), len(drawn)), len(drawn)
        lacking, left = wanted - kept, len(stored) - kept
        how = f"{kept:,} rows kept, " + (f"{lacking:,} drawn" if lacking else f"{left:,} left out")
        return Resized(torch.cat([stored[:kept].to(drawn), drawn[kept:]]), how)


class LanguageModeling(Task):
    """Trains a causal sequence backbone to predict the next token.

    Args:
        backbone: The sequence backbone.
        vocab_size: Number of tokens; the command line takes it from the data.
        tie_embedding: Whether the vocabulary head uses the embedding's matrix.
        metrics: Metrics of torchmetrics by name, beside our own, of logits (targets, vocab_size) and tokens (targets,).
        primary_metric: Name of the metric that ranks checkpoints and runs; bits_per_byte if not given.
        options: The other arguments of `Task`.

    Raises:
        InputError: If the backbone is no sequence backbone.
    """

    objective: LanguageModelingObjective
    backbone: SequenceBackbone

    def __init__(
        self,
        backbone: Backbone,
        vocab_size: int,
        tie_embedding: bool = True,
        metrics: dict[str, Metric] | None = None,
        primary_metric: str | None = None,
        **options: Inherited[TrainingOptions],
    ) -> None:
        if not isinstance(backbone, SequenceBackbone):
            raise InputError(
                f"{type(backbone).__name__} is not a causal sequence backbone; language modelling takes Mamba, ..."
            )
        objective = LanguageModelingObjective(backbone.width, vocab_size, tie_embedding, metrics, primary_metric)
        super().__init__(backbone, objective, **options)
        self.save_constructor_arguments()

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, length, vocab_size) of tokens (batch, length)."""
        return self.objective(self.backbone(self.objective.embedding(tokens)))

    def training_losses(self, batch: TokenBatch) -> dict[str, Tensor]:
        output = self.backbone(self.objective.embedding(batch["tokens"]))
        return self.objective.losses(output, batch) | output.auxiliary_losses

    def predictions(self, batch: TokenBatch) -> Tensor:
        return self(batch["tokens"])

    @torch.inference_mode()
    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a prompt token by token, with the backbone's state instead of the growing text.

        Args:
            prompt: (batch, length) tokens, length at least 1.
            max_new_tokens: Number of tokens to add.
            temperature: Divides the logits; 0 always takes the likeliest token.
            top_k: Draw from the k likeliest tokens only.
            top_p: Draw from the smallest set of tokens that together have this probability.
            generator: Source of randomness; torch's global one if None.

        Returns:
            (batch, length + max_new_tokens) tokens, the prompt included.

        Raises:
            InputError: If the prompt is empty, or `max_new_tokens` or an option of the sampling is out of range.
        """
        batch_size, length = prompt.shape
        if length == 0:
            raise InputError("the prompt is empty; give at least one character")
        if max_new_tokens < 0:
            raise InputError(f"max_new_tokens is {max_new_tokens}; give 0 or more")
        was_training = self.training
        self.eval()
        try:
            state = self.backbone.initial_state(batch_size, max_length=length + max_new_tokens, device=prompt.device)
            tokens, chunk = [prompt], prompt
            for _ in range(max_new_tokens):
                output = self.backbone(self.objective.embedding(chunk), state)
                state = output.state
                logits = self.objective.head(output.features[:, -1]).float()  # (batch, vocab_size)
                chunk = pick_next_token(logits, temperature, top_k, top_p, generator)[:, None]
                tokens.append(chunk)
        finally:
            self.train(was_training)
        return torch.cat(tokens, dim=1)

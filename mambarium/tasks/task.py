"""The LightningModule that every task is: backbone, objective, optimiser, logging."""

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self, TypedDict

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.pickles import read_pickle
from mambarium.errors import InputError
from mambarium.private_names.lightning import is_built_by_the_command_line
from mambarium.tasks.objective import Objective, TaskMetrics
from mambarium.tasks.optimization import (
    RATE_FACTOR,
    Constant,
    OptimizerFactory,
    Schedule,
    SharedFactory,
    freeze,
    layer_rates,
    parameter_groups,
)
from mambarium.tasks.pretrained import load_pretrained
from mambarium.trust import check_named_classes


class TrainingOptions(TypedDict, total=False):
    """The arguments of `Task` that every task takes."""

    optimizer: OptimizerFactory | None
    schedule: Schedule | None
    pretrained: str | None
    layer_decay: float | None
    frozen_stages: int


class Task(LightningModule, ABC):
    """Trains a backbone under an objective.

    The summed loss is logged as `train/loss`, its parts, if there are several, as `train/<name>`, metrics as
    `val/<name>` and `test/<name>`.

    Args:
        backbone: The network that turns the input into features.
        objective: Head, loss and metrics on those features.
        optimizer: Optimiser, for example `class_path: torch.optim.AdamW`; AdamW with its defaults if not given. Norms,
            biases, embeddings and state-space parameters never get weight decay.
        schedule: Learning-rate schedule over the whole run: WarmupCosine, WarmupLinear, WarmupSteps or Constant (if not
            given).
        pretrained: Weights to start from: "official" (what the authors published of the backbone's variant), or a
            published checkpoint or one of ours, as a file, a folder, a URL or a name on the Hugging Face hub
            (owner/name or owner/name:file). Read once when a run starts, never on resuming.
        layer_decay: Factor on the learning rate from each layer of the backbone to the one before it; one rate if not
            given.
        frozen_stages: Number of the backbone's first stages (of an image's, the stem is the first), or of a sequence
            backbone's first layers, to leave as they are.

    Attributes:
        primary_metric: The metric by which runs of this task are ranked.

    Raises:
        InputError: If layer_decay or frozen_stages is out of range, or the objective has no such metric.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        pretrained: str | None = None,
        layer_decay: float | None = None,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective
        self.pretrained = pretrained
        self.pretrained_record: dict[str, str] | None = None
        self.has_weights = False
        self.layer_decay = layer_decay
        self.learning_rate_factors = {} if layer_decay is None else layer_rates(backbone, layer_decay)
        freeze(backbone, frozen_stages)
        self.optimizer_factory = SharedFactory(optimizer or AdamW)
        self.schedule = schedule or Constant()
        self.primary_metric = objective.primary_metric
        self.val_metrics = objective.new_metrics()
        self.test_metrics = objective.new_metrics()
        self.train()

    def save_constructor_arguments(self, *modules: str) -> None:
        """Record the arguments of the calling constructor in checkpoints, for `load_from_checkpoint`.

        The command line hands every argument over as plain data. Arguments given in Python are recorded only where they
        are plain data: a module or an optimiser class in a checkpoint could not be loaded with `weights_only=True`, so
        `load_from_checkpoint` then wants them again.

        Args:
            modules: Names of arguments that are no plain data in Python, besides those that every task takes.
        """
        ignore = () if is_built_by_the_command_line() else ("backbone", "optimizer", "schedule", "metrics", *modules)
        constructor = inspect.currentframe()
        assert constructor is not None
        self.save_hyperparameters(ignore=ignore, frame=constructor.f_back)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build a task with a checkpoint's weights, as Lightning does it; never import code that isn't trusted.

        Args:
            checkpoint_path: The file.
            map_location: Where tensors go, as in `torch.load`.
            hparams_file: As Lightning takes it.
            strict: Whether the weights must be those of the task, one by one.
            weights_only: None or True: nothing in a file is ever run.
            kwargs: Constructor arguments, in place of those that the checkpoint has.

        Raises:
            InputError: If the checkpoint names code other than classes of known packages, or is damaged.
        """
        if weights_only is False:
            raise InputError("weights_only=False would run code from the checkpoint; leave it out")
        content = read_pickle(Path(checkpoint_path))
        stored = content.get(cls.CHECKPOINT_HYPER_PARAMS_KEY) if isinstance(content, dict) else None
        if isinstance(stored, dict):
            arguments = {key: value for key, value in stored.items() if key not in ("_instantiator", "pretrained")}
            check_named_classes(arguments, str(checkpoint_path), all_texts=True)
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, True, **kwargs)

    def on_fit_start(self) -> None:
        self.start_from_pretrained()

    def start_from_pretrained(self) -> None:
        """Load the weights that `pretrained` names, unless weights were loaded before, and keep what they were.

        Every fit does this when it starts; the command line earlier, before callbacks make copies of the model.

        Raises:
            InputError: As `mambarium.tasks.load_pretrained`.
        """
        if self.pretrained is None or self.has_weights:
            return
        report = load_pretrained(self, self.pretrained)
        self.pretrained_record = {
            "source": report.source,
            "sha256": report.sha256,
            "format": report.format,
            "weights": report.weights,
        }
        self.has_weights = True
        rank_zero_only(print)(report, flush=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.pretrained_record is not None:
            checkpoint["pretrained"] = self.pretrained_record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.pretrained_record = checkpoint.get("pretrained")
        self.has_weights = True

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; what is frozen stays in evaluation, its batch norms and dropouts too."""
        super().train(mode)
        for module in self.backbone.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    @property
    def predictors(self) -> dict[str, tuple[LightningModule, Objective]]:
        """What predicts, and its objective, for each of several tasks by its name; of a single one "" is the name."""
        return {"": (self, self.objective)}

    @property
    def logged_names(self) -> tuple[str, ...]:
        """All names under which a validation may log; empty where a task or metrics of the user's may log others."""
        if not type(self).__module__.startswith("mambarium."):
            return ()
        return tuple(f"val/{name}" for name in self.val_metrics.names)

    @abstractmethod
    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        """Losses of a training batch by name, auxiliary ones of the backbone included; their sum is trained on."""

    @abstractmethod
    def predictions(self, batch: Any) -> Any:
        """Return what the objective's metrics compare with the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self.training_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        if len(losses) > 1:
            self.log_dict({f"train/{name}": loss.detach() for name, loss in losses.items()})
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metrics.update(self.predictions(batch), batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_metrics.update(self.predictions(batch), batch)

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.test_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: TaskMetrics) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == self.primary_metric.name, rank_zero_only=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        rates = {f"backbone.{name}": rate for name, rate in self.learning_rate_factors.items()}
        optimizer = self.optimizer_factory(parameter_groups(self, rates))
        for group in optimizer.param_groups:
            group["lr"] *= group.get(RATE_FACTOR, 1.0)
        total_steps = self.trainer.estimated_stepping_batches
        # The rate at step s is that of the update to step s + 1, so that the first update is not wasted at rate 0.
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(min((step + 1) / total_steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

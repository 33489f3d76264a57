"""Continuations of the same text after each validation, in TensorBoard."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from mambarium.errors import InputError
from mambarium.platform.data.text.text_data import Text
from mambarium.platform.runs.tensorboard import RunTensorBoard
from mambarium.tasks.language_modeling.language_modeling_task import LanguageModeling


class TextSamples(Callback):
    """Lets a language model continue the beginning of the validation text, always with the same random numbers.

    The first process writes. Training's own random numbers are not touched.

    Args:
        prompt_tokens: Tokens of the validation text that are given.
        new_tokens: Tokens that the model adds; 0 for no samples.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, prompt_tokens: int = 64, new_tokens: int = 128) -> None:
        if prompt_tokens < 1 or new_tokens < 0:
            raise InputError(
                f"TextSamples has prompt_tokens {prompt_tokens} and new_tokens {new_tokens}; give 1 or more, 0 or more"
            )
        self.prompt_tokens, self.new_tokens = prompt_tokens, new_tokens

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a sample."""
        board = next((logger for logger in trainer.loggers if isinstance(logger, RunTensorBoard)), None)
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero or board is None or not self.new_tokens:
            return
        if not isinstance(pl_module, LanguageModeling) or not isinstance(data, Text):
            return
        window = data.validation_samples()[0, 0]
        prompt = torch.from_numpy(window.tokens[: self.prompt_tokens]).to(pl_module.device)[None]  # (1, length)
        generator = torch.Generator(pl_module.device).manual_seed(0)
        with trainer.precision_plugin.forward_context():
            tokens = pl_module.generate(prompt, self.new_tokens, generator=generator)[0].tolist()
        given, added = (data.decode(part) for part in (tokens[: prompt.shape[1]], tokens[prompt.shape[1] :]))
        board.experiment.add_text(
            "sample", f"given:\n```\n{given}\n```\nadded:\n```\n{added}\n```", trainer.global_step
        )

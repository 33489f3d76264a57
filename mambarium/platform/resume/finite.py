"""A diverged run stops with one clear line."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mambarium.errors import InputError


class FiniteLoss(Callback):
    """Stops the run when the training loss is NaN or infinite, and keeps such weights out of checkpoints.

    The loss is looked at every `log_every_n_steps` batches and, with the weights, before each checkpoint, so
    that a GPU need not wait at each step.
    """

    def __init__(self) -> None:
        self._all_finite: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        finite = torch.isfinite(outputs["loss"].detach())
        self._all_finite = finite if self._all_finite is None else self._all_finite & finite
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
        if (batch_idx + 1) % max(1, every) == 0:
            self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)
        if not all(torch.isfinite(parameter).all() for parameter in pl_module.parameters()):
            raise InputError(self._message(trainer, "a weight"))

    def _check(self, trainer: Trainer) -> None:
        finite, self._all_finite = self._all_finite, None
        if finite is not None and not finite.item():
            raise InputError(self._message(trainer, "the training loss"))

    @staticmethod
    def _message(trainer: Trainer, what: str) -> str:
        return (
            f"{what} became NaN or infinite at step {trainer.global_step} or shortly before: lower the learning rate, "
            "warm up longer, or set trainer.gradient_clip_val; the last checkpoint is from before"
        )

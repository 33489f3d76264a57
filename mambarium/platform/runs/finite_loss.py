"""A diverged run stops with one clear line."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mambarium.errors import InputError


class FiniteLoss(Callback):
    """Stops the run when the training loss is NaN or infinite, and keeps such states out of checkpoints.

    The loss is looked at every `log_every_n_steps` batches and before each checkpoint, so that a GPU need not wait
    at each step. Weights, buffers and the optimisers' states are looked at before each checkpoint. A buffer that
    holds infinities when training begins, a mask for example, may do so later.
    """

    def __init__(self) -> None:
        self._all_finite: torch.Tensor | None = None
        self._never_finite: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._never_finite = {name for name, buffer in pl_module.named_buffers() if not is_finite(buffer)}

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
        for name, value in checkpoint["state_dict"].items():
            if name not in self._never_finite and not is_finite(value):
                raise InputError(self._message(trainer, name))
        for states in checkpoint["optimizer_states"]:
            for state in states["state"].values():
                for name, value in state.items():
                    if not is_finite(value):
                        raise InputError(self._message(trainer, f"the optimiser's {name}"))

    def _check(self, trainer: Trainer) -> None:
        finite, self._all_finite = self._all_finite, None
        if finite is not None and not finite.item():
            raise InputError(self._message(trainer, "the training loss"))

    @staticmethod
    def _message(trainer: Trainer, what: str) -> str:
        return (
            f"{what} became NaN or infinite at step {trainer.global_step} or shortly before; lower the learning rate, "
            "warm up longer, or set trainer.gradient_clip_val; the last checkpoint is from before"
        )


def is_finite(value: Any) -> bool:
    """Whether a part of a state, a tensor or several or none, holds neither NaN nor infinities."""
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, torch.Tensor) or bool(torch.isfinite(value).all())

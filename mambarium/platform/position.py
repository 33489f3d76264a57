"""How far a run has come: the one counter from which data order and random numbers follow."""

from math import ceil
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mambarium.errors import InputError
from mambarium.platform.randomness import mixed_seed, seed_all_generators


class Position(Callback):
    """Counts finished training batches, keeps the count in every checkpoint, and seeds each batch by it.

    Lightning's own epoch and batch counters drift over chains of resumes; this one doesn't, because nothing
    but a finished batch moves it. Samplers start from it and dropout is seeded by it, so a resumed run draws
    the numbers that an uninterrupted one would have drawn.

    Put it first among the callbacks: the others then see the batch counted.

    Args:
        seed: The run's seed; batch n on process r draws its random numbers from (seed, n, r).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.finished_batches = 0
        self.batches_per_pass: int | None = None
        """Global batches in one pass through the data; `TrainingBatches` fills it in."""
        self.dealt_from: int | None = None
        """The position from which `TrainingBatches` last began to deal batches."""
        self._finished_here = 0

    @classmethod
    def of(cls, trainer: Trainer) -> "Position":
        """Return the first Position among the Trainer's callbacks.

        Raises:
            InputError: If there is none.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
            if isinstance(callback, cls):
                return callback
        raise InputError(
            "the Trainer has no Position, which exact resume counts by; add Position(seed) to its callbacks"
        )

    @property
    def passes(self) -> float | None:
        """Passes through the data so far, in fractions; None before the training data is there."""
        return None if self.batches_per_pass is None else self.finished_batches / self.batches_per_pass

    def optimizer_steps(self, trainer: Trainer) -> int:
        """Optimiser steps in the finished batches; the run's last accumulation may be of fewer batches."""
        return ceil(self.finished_batches / trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        return {"finished_batches": self.finished_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.finished_batches = state_dict["finished_batches"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finished_here = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.dealt_from is not None and self.finished_batches != self.dealt_from + self._finished_here:
            raise InputError(
                f"the loader dealt from batch {self.dealt_from} before the checkpoint was restored, as some "
                "strategies do it; resume with trainer.strategy auto or ddp"
            )
        self._seed_generators("training batch", trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.finished_batches += 1
        self._finished_here += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed_generators("validation", trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed_generators("test", trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed_generators("predict", trainer)

    def _seed_generators(self, purpose: str, trainer: Trainer) -> None:
        seed_all_generators(mixed_seed(purpose, self.seed, self.finished_batches, trainer.global_rank))

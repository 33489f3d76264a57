"""When a run's checkpoints are written, what for, and how a run stops."""

import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed

from mambarium.errors import InputError
from mambarium.files import duplicate_atomically, remove_stale_temporaries, set_aside
from mambarium.platform.runs.metrics_file import MetricsFile
from mambarium.platform.position import Position
from mambarium.platform.runs.signals import Interrupted, StopSignals
from mambarium.platform.runs.tensorboard import RunTensorBoard
from mambarium.tasks.objective import PrimaryMetric

CHECKPOINT_NAMES = ("last.ckpt", "previous.ckpt", "best.ckpt")
"""A run's checkpoints, the one to go on from first."""

MINUTES_BETWEEN = 3.0
"""Minutes between periodic checkpoints."""


class RunCheckpoint(Callback):
    """Writes `last.ckpt`, `previous.ckpt` and `best.ckpt`, and stops the run in good order when a signal asks for it.

    Checkpoints are written in three places only, in which a run can go on exactly: between two training
    batches (when the accumulation of gradients is complete, and the validation after the earlier batch too),
    before a validation (which is then owed), and at the end of training. Never inside a step and never on an
    exception.

    `last.ckpt` is written every few minutes or so many steps, before and after each validation, at the end, and
    when the run is asked to stop. `best.ckpt` is the checkpoint after the validation with the best primary
    metric so far, the earliest of equals. `previous.ckpt` is what `last.ckpt` was before, for the case that it is
    damaged one day.

    This is no `Checkpoint` to Lightning, which would move it behind the user's callbacks: it must write
    before they see the next batch begin. Belongs right behind Position and ValidationSchedule.

    What lies in the folder and is not what training goes on from, such as a damaged `last.ckpt`, is kept under
    another name.

    Args:
        folder: Where the files go, `runs/<name>/checkpoints`.
        primary_metric: The task's primary metric; None keeps no `best.ckpt`.
        every_steps: Optimiser steps between periodic checkpoints, instead of minutes.
    """

    def __init__(self, folder: Path, primary_metric: PrimaryMetric | None, every_steps: int | None = None) -> None:
        self.last, self.previous, self.best = (folder / name for name in CHECKPOINT_NAMES)
        self._metric = primary_metric
        self._every_steps = every_steps
        self._best_value: float | None = None
        self._log: dict[str, float] = {"rows": 0, "seconds": 0.0}
        self._events: dict[str, int] = {}
        self.metrics: dict[str, float] = {}
        """What the last validation logged, also one of an earlier part of the run."""
        self.written_step = 0
        """The step of the last checkpoint that was written or gone on from; 0 if there is none."""
        self._metrics_file: MetricsFile | None = None
        self._boards: list[RunTensorBoard] = []
        self._signals = StopSignals()
        self._group: Any = None
        self._has_begun = False
        self._written_at = 0.0
        self._validated = False
        self._is_new_best = False
        self._ended = False

    def state_dict(self) -> dict[str, Any]:
        if self._metrics_file is not None:
            self._log = {"rows": self._metrics_file.rows, "seconds": self._metrics_file.seconds}
        for board in self._boards:
            self._events = board.events
        return {
            "best_value": self._best_value,
            "metrics": self.metrics,
            "log": self._log,
            "events": self._events,
            "ended": self._ended,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best_value = state_dict["best_value"]
        self.metrics = state_dict["metrics"]
        self._log = state_dict["log"]
        self._events = state_dict["events"]
        self._ended = state_dict["ended"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING:
            return
        self._signals.install(trainer)
        if trainer.is_global_zero:
            remove_stale_temporaries(self.last.parent)
        self._metrics_file = next((logger for logger in trainer.loggers if isinstance(logger, MetricsFile)), None)
        self._boards = [logger for logger in trainer.loggers if isinstance(logger, RunTensorBoard)]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # an early stop is not repeated by training on: the run had ended when this checkpoint was written
        trainer.should_stop = self._ended
        # the position takes care of what Lightning warns about
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # gloo, whatever the training uses: it neither waits for a GPU nor meets the gradients' reductions
        self._group = distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        self._has_begun = True
        self._written_at = time.monotonic()
        self._take_up(trainer)
        self._signals.defer(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        finished = Position.of(trainer).finished_batches
        if finished % trainer.accumulate_grad_batches:
            return
        signal_number, due = self._agree(self._signals.received, self._is_due(trainer))
        if finished and (due or signal_number or self._validated):
            self._write(trainer)
        if signal_number:
            self._stop(trainer, signal_number)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        finished = Position.of(trainer).finished_batches
        if finished % trainer.accumulate_grad_batches == 0 or finished == trainer.num_training_batches:
            self._write(trainer)
            self._stop_if_asked(trainer)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._validated = True
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.metrics = {name: value for name, value in logged.items() if name.startswith("val/")}
        if self._metric is None:
            return
        name = f"val/{self._metric.name}"
        if name not in logged:
            raise InputError(f"the task's primary metric {name} was not logged in validation: log it there")
        value = logged[name]
        sign = 1 if self._metric.direction == "max" else -1
        if not math.isnan(value) and (self._best_value is None or sign * value > sign * self._best_value):
            self._best_value = value
            self._is_new_best = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True
        self._write(trainer)
        self._signals.restore()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._has_begun and self._ended:  # the checkpoint was the run's end: Lightning trains nothing
            self._take_up(trainer)
            if trainer.is_global_zero and not self.last.exists():
                duplicate_atomically(Path(str(trainer.ckpt_path)), self.last)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._signals.restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signals.restore()

    def _take_up(self, trainer: Trainer) -> None:
        """Brings logs and folder to where they were at the checkpoint that was restored, or to nothing."""
        restored = None if trainer.ckpt_path is None else Path(trainer.ckpt_path).resolve()
        ours = [path for path in (self.last, self.previous, self.best) if path.exists()]
        here = restored is not None and restored in [path.resolve() for path in ours]
        if self._metrics_file is not None:
            self._metrics_file.begin(int(self._log["rows"]) if here else 0, self._log["seconds"])
        for board in self._boards:
            board.begin(self._events if here else None)
        self.written_step = trainer.global_step if here else 0
        if trainer.is_global_zero:
            for path in ours:
                if path.resolve() == restored:
                    break
                set_aside(path)

    def _write(self, trainer: Trainer) -> None:
        if self._metrics_file is not None:
            self._metrics_file.force_to_disk()
        for board in self._boards:
            board.force_to_disk()
        if self._is_new_best:
            # best first: a crash between the two repeats the validation and finds the same best
            trainer.save_checkpoint(self.best)
            if trainer.is_global_zero:
                duplicate_atomically(self.best, self.last, self.previous)
        else:
            trainer.save_checkpoint(self.last, storage_options=self.previous)
        trainer.strategy.barrier("RunCheckpoint")
        self.written_step = trainer.global_step
        self._is_new_best = self._validated = False
        self._written_at = time.monotonic()

    def _is_due(self, trainer: Trainer) -> bool:
        if self._every_steps is not None:
            return trainer.global_step % self._every_steps == 0
        return time.monotonic() - self._written_at >= 60 * MINUTES_BETWEEN

    def _stop_if_asked(self, trainer: Trainer) -> None:
        (signal_number,) = self._agree(self._signals.received)
        if signal_number:
            self._stop(trainer, signal_number)

    def _stop(self, trainer: Trainer, signal_number: int) -> None:
        step = trainer.global_step
        raise Interrupted(
            signal_number,
            trainer.global_rank,
            f"stopped after step {step}, {self.last} is written: the same command goes on from there"
            if step
            else "stopped before the first step: the same command starts again",
        )

    def _agree(self, *values: int) -> list[int]:
        """Return the largest of each value in all processes, which must call it at the same point."""
        if self._group is None:
            return list(values)
        together = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(together, op=distributed.ReduceOp.MAX, group=self._group)
        return together.tolist()

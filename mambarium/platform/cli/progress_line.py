"""What a run shows while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

SECONDS_BETWEEN_LINES = 10.0


class Progress(ProgressBar):
    """Shows steps, time left and the metrics that matter; prints a line after each validation.

    On a terminal the steps are a bar; elsewhere a line is printed every ten seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: RichBar | None = None
        self._task: TaskID | None = None
        self._started = 0.0
        self._last_line = 0.0
        self._first_step = 0

    def disable(self) -> None:
        """Show nothing: Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    _enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._last_line = time.monotonic()
        self._first_step = trainer.global_step
        if self._enabled and sys.stdout.isatty():
            self._bar = RichBar(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=Console(),
            )
            self._task = self._bar.add_task(
                "train", total=int(trainer.estimated_stepping_batches), completed=self._first_step, metrics=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._enabled:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step, metrics=self._metrics(trainer, "train"))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            done, total = trainer.global_step, int(trainer.estimated_stepping_batches)
            seconds_left = (self._last_line - self._started) / max(1, done - self._first_step) * (total - done)
            print(
                f"step {done}/{total}  {self._metrics(trainer, 'train')}  {seconds_left:.0f} s left",
                flush=True,
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        line = f"step {trainer.global_step}  {self._metrics(trainer, 'val')}"
        if self._bar is not None:
            self._bar.console.print(line)
        else:
            print(line, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _metrics(trainer: Trainer, stage: str) -> str:
        values = trainer.callback_metrics
        return "  ".join(
            f"{name} {value:.4f}" for name, value in sorted(values.items()) if name.startswith(f"{stage}/")
        )

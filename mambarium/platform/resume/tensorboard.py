"""TensorBoard logs of a run in one folder, without doubled points after a resume."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mambarium.platform.resume.position import Position


class RunTensorBoard(TensorBoardLogger):
    """Writes event files straight into one folder; a resumed run withdraws the points past its checkpoint.

    A validation that is done again after a crash in its midst shows its points twice, equal.

    Args:
        folder: Where the event files go, `runs/<name>/tensorboard`.
        position: The run's position, for the curve `pass`.
    """

    def __init__(self, folder: Path, position: Position) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False)
        self._position = position

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes points, with `pass` in place of Lightning's `epoch`, which is always 0 here.

        Args:
            metrics: Values by name.
            step: The step they belong to.
        """
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if self._position.passes is not None:
            values["pass"] = self._position.passes
        super().log_metrics(values, step)

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Tells TensorBoard that points of this step and later, written by earlier processes, don't count.

        Lightning opens the writer before it reads the checkpoint, too early for SummaryWriter's own
        `purge_step`.

        Args:
            step: Optimiser steps at the checkpoint, 0 for a fresh start.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        writer = self.experiment._get_file_writer()
        writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)), step)

"""TensorBoard logs of a run in one folder, the same after any chain of interruptions."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mambarium.errors import InputError
from mambarium.platform.runs.event_files import cut_events, event_ends, event_files
from mambarium.platform.position import Position


class RunTensorBoard(TensorBoardLogger):
    """Writes event files straight into one folder: curves, pictures, texts and what else callbacks log there.

    Checkpoints carry the number of events; a resumed run cuts what was written after its checkpoint, and writes
    it again. A TensorBoard that is open meanwhile shows such points twice until it is started again.

    The Position is that of the run, for the curve `pass`.
    """

    def __init__(self, folder: Path, position: Position) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False)
        self._folder = folder
        self._position = position
        self._earlier = event_files(folder)
        self._counted: dict[Path, tuple[int, int]] = {}
        self.events: dict[str, int] = {}
        """Events on the disk by sub-folder, as `force_to_disk` last counted them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write points, with `pass` in place of Lightning's `epoch`, which is always 0 here.

        What is no number has no point: it is the figure of a class that does not occur.
        """
        values = {name: value for name, value in metrics.items() if name != "epoch" and not math.isnan(value)}
        if self._position.passes is not None:
            values["pass"] = self._position.passes
        super().log_metrics(values, step)

    @rank_zero_only
    def begin(self, events: Mapping[str, int] | None) -> None:
        """Go on from a checkpoint with so many events by sub-folder, or from nothing: cut what was written after it.

        Lightning opens the writer before it reads the checkpoint. What has been written by now, such as
        hyper-parameters, is new at a fresh start and doubled at every other.
        """
        if events is None:
            for paths in self._earlier.values():
                cut_events(paths, 0)
        else:
            self.check(events)
            self.experiment.close()
            for name, paths in event_files(self._folder).items():
                earlier = self._earlier.get(name, [])
                for path in set(paths) - set(earlier):
                    path.unlink()
                cut_events(earlier, events.get(name, 0))
        self._counted.clear()

    def check(self, events: Mapping[str, int]) -> None:
        """Refuse to go on where a sub-folder's files hold fewer events than at the checkpoint."""
        for name, count in events.items():
            found = sum(1 for path in self._earlier.get(name, []) for _ in event_ends(path))
            if found < count:
                raise InputError(
                    f"{self._folder / name} holds {found} of the {count} events that the checkpoint counts"
                )

    @rank_zero_only
    def force_to_disk(self) -> None:
        """Make the events outlive a crash of the machine, for a checkpoint that counts them, and count them."""
        self.experiment.flush()
        self.events = {}
        for name, paths in event_files(self._folder).items():
            for path in paths:
                end, count = self._counted.get(path, (0, 0))
                if path.stat().st_size > end:
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                    ends = list(event_ends(path, end))
                    count += len(ends)
                    self._counted[path] = (ends[-1] if ends else end, count)
                self.events[name] = self.events.get(name, 0) + count

"""metrics.csv: one row per logged event, the same after any chain of interruptions."""

import csv
import io
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mambarium.errors import InputError
from mambarium.files import remove_stale_temporaries, replaced_atomically
from mambarium.platform.position import Position

FIXED_COLUMNS = ("step", "pass", "seconds")


class MetricsFile(Logger):
    """Writes metrics to one CSV file in the run folder.

    Columns: `step` (as Lightning counts: n optimiser steps are done before step n), `pass` (passes through
    the data), `seconds` (of training so far, interruptions left out), then one per metric in order of first
    appearance. Each row is handed to the operating system as it is written: a killed process loses none.

    Checkpoints carry the number of rows; a resumed run cuts what was written after its checkpoint. The
    finished file then equals that of an uninterrupted run, but for `seconds`.

    The Position is that of the run, for `pass`.
    """

    def __init__(self, path: Path, position: Position) -> None:
        super().__init__()
        self._path = path
        self._position = position
        self._columns = list(FIXED_COLUMNS)
        self.rows = 0
        """Rows written, the header not counted."""
        self._begun = time.monotonic()
        self._file: io.TextIOWrapper | None = None

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self._begun

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row, without Lightning's `epoch`, which is always 0 here."""
        values = {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        passes = self._position.passes
        values["step"] = "" if step is None else str(step)
        values["pass"] = "" if passes is None else f"{passes:.6g}"
        values["seconds"] = f"{self.seconds:.3f}"
        if new := sorted(set(values) - set(self._columns)):
            self._columns += new
            self._rewrite(self._read())
        if self._file is None:
            self._open()
        assert self._file is not None
        self._file.write(_line([values.get(column, "") for column in self._columns]))
        self._file.flush()
        self.rows += 1

    @rank_zero_only
    def begin(self, rows: int, seconds: float) -> None:
        """Go on from a checkpoint, or from nothing: cut what was written after so many rows and seconds of training."""
        self.check(rows)
        self._close()
        remove_stale_temporaries(self._path.parent)
        self._begun = time.monotonic() - seconds
        self._columns = list(FIXED_COLUMNS)
        if not self._path.exists() and rows == 0:
            self.rows = 0
            return
        table = self._read()
        kept = table[:rows]
        used = {column for row in kept for column, value in row.items() if value}
        self._columns += [column for column in (table[0] if table else {}) if column in used - set(FIXED_COLUMNS)]
        self._rewrite(kept)

    def check(self, rows: int) -> None:
        """Refuse to go on where the file holds fewer rows than at the checkpoint."""
        if rows and (found := len(self._read())) < rows:
            raise InputError(f"{self._path} holds {found} of the {rows} rows that the checkpoint counts")

    @rank_zero_only
    def force_to_disk(self) -> None:
        """Make the rows outlive a crash of the machine, for a checkpoint that counts them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._close()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8", newline="")
        if self._file.tell() == 0:
            self._file.write(_line(self._columns))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[dict[str, str]]:
        """Return the whole rows of the file, without one that a crash cut; a file of something else has none."""
        if not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8", errors="replace")
        if not text.startswith(_line(list(FIXED_COLUMNS)).rstrip()):
            return []
        whole = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(whole), restval=""))

    def _rewrite(self, table: list[dict[str, str]]) -> None:
        self._close()
        with replaced_atomically(self._path) as file:
            file.write(_line(self._columns).encode())
            for row in table:
                file.write(_line([row.get(column, "") for column in self._columns]).encode())
        self.rows = len(table)


def _line(fields: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()

"""How a run is ended, waited for and measured, and what it leaves; on pytest's path for all of this folder."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class Killed(SystemExit):
    """The process ends here; as with kill -9, nothing is written afterwards."""


class Crash(Exception):
    """The same without the command line around it."""


class CrashAt(Callback):
    """Crashes in the n-th call of a hook."""

    def __init__(self, hook: str, call: int) -> None:
        self.remaining = call
        setattr(self, hook, self._count)

    def _count(self, *args: Any, **kwargs: Any) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            raise Crash


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def bytes_read(action: Callable[[], object]) -> int:
    """What this process reads from files in the meantime, cached or not; only Linux counts it."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().splitlines()[0].removeprefix("rchar: "))

    before = so_far()
    action()
    return so_far() - before


def logged_rows(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv without the times that they were written at."""
    with (run / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]

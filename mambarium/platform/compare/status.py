"""What a comparison shows while it runs: one live line in a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mambarium.platform.compare.cell_records import CellRecord
from mambarium.platform.compare.matrix import Cell


class Progress:
    """Tells which cell of how many runs, for how long, and how each ended; a context manager around the whole run."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._label = ""
        self._started = 0.0
        # Refreshed by hand: no thread may run while a process is forked.
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(Text(line), soft_wrap=True)

    def skip(self, index: int, cell: Cell, reason: str) -> None:
        """Tell that a cell doesn't run, and why."""
        self.say(f"{self._describe(index, cell)}: {reason}")

    def start(self, index: int, cell: Cell, resumes: bool) -> None:
        """Tell that a cell runs now, by its number from 1."""
        self._label = self._describe(index, cell)
        self._started = time.monotonic()
        if self._live is None:
            self.say(f"{self._label}: {'goes on' if resumes else 'starts'}")
        self.tick("")

    def tick(self, doing: str) -> None:
        """Bring the live line up to date."""
        if self._live is not None:
            self._live.update(Text(f"{self._label} {doing} {self._elapsed()}", no_wrap=True), refresh=True)

    def end(self, record: CellRecord) -> None:
        """Tell how the running cell ended."""
        text: str = record.status
        if record.outcome is not None:
            name = record.outcome.primary_metric
            text += f", {name} {record.outcome.metrics[name]:.4f}"
        elif record.message:
            text += f", {record.message}"
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
        self.say(f"{self._label}: {text} ({self._elapsed()})")

    def _describe(self, index: int, cell: Cell) -> str:
        return f"cell {index} of {self._total}: {cell.task}, {cell.backbone}, seed {cell.seed}"

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes}:{seconds:02d}"

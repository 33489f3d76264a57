"""The command `compare`: from a YAML file to results.csv and a table."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mambarium.errors import InputError
from mambarium.files import write_atomically
from mambarium.platform.compare.cell_process import FolderLock, SignalRelay, in_use
from mambarium.platform.compare.cell_records import load_record
from mambarium.platform.compare.matrix import Cell, Matrix, read_matrix
from mambarium.platform.compare.report import markdown_report, terminal_table, unfinished_lines
from mambarium.platform.compare.results_table import collect_results, write_results
from mambarium.platform.compare.runner import PROGRAM, Runner
from mambarium.platform.compare.status import Progress

# Longer than `fit` needs to end its step and write a checkpoint.
_PATIENCE_SECONDS = 60.0


def compare(
    config: Path,
    runs_dir: Path = Path("runs"),
    retry_failed: bool = False,
    report_only: bool = False,
    dry_run: bool = False,
    only: str | None = None,
) -> int:
    """Train and test tasks x backbones x seeds, and put the results side by side.

    Each cell runs `fit` and then `test` in a process and a run folder of its own. The same command again
    skips finished cells and goes on with interrupted ones. results.csv and table.md lie in
    `<runs_dir>/compare/<name>/` and are written after every cell.

    Args:
        config: The comparison's YAML file: `name`, `seeds`, and `tasks` with `config`, `backbones` and
            `overrides`.
        runs_dir: The folder for runs.
        retry_failed: Run cells that failed again.
        report_only: Write results and table from what is there, and run nothing.
        dry_run: Show each cell's state and command, and do nothing.
        only: Run only the cells whose names fit this pattern, such as 'language-*' or '*-seed0'.

    Returns:
        The exit code: 0 if all cells asked for are finished, 1 if not, 128 + n after
            Ctrl-C (130) or another stop signal n.

    Raises:
        InputError: The YAML file or an option is wrong, a finished cell's definition has changed since, or
            another comparison works in the same folder.
    """
    if dry_run and report_only:
        raise InputError("--dry_run and --report_only exclude each other; choose one")
    matrix = read_matrix(config)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a log file is as wide as the table
    comparison = Comparison(matrix, config, runs_dir, PROGRAM, console)
    if dry_run:
        return comparison.show(only)
    if report_only:
        return comparison.report(only)
    return comparison.run(only, retry_failed)


class Comparison:
    """One comparison in its folder, each cell started by the program's command line with `fit` or `test` after it."""

    def __init__(self, matrix: Matrix, source: Path, runs_dir: Path, program: Sequence[str], console: Console) -> None:
        self.matrix = matrix
        self.source = source
        self.folder = runs_dir / "compare" / matrix.name
        self.program = program
        self.console = console

    def show(self, only: str | None) -> int:
        """Print each cell's state and command; returns exit code 0."""
        for cell in self.matrix.select(only):
            record = load_record(cell, self.folder, in_use(self.folder))
            self._print(f"{cell.name}: {record.status}" + (f" ({record.message})" if record.message else ""))
            self._print(f"    {shlex.join([*self.program, 'fit', *cell.options(self.folder)])}")
        return 0

    def report(self, only: str | None) -> int:
        """Write results and table from what is there; returns the exit code."""
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: nothing has run there; leave --report_only out to run it")
        selected = self.matrix.select(only)
        self._write(in_use(self.folder))
        self._print_table()
        return self._exit_code(selected)

    def run(self, only: str | None, retry_failed: bool) -> int:
        """Run what isn't finished, then write results and table; returns the exit code.

        Raises:
            InputError: A selected cell is stale, or another comparison works in the folder.
        """
        selected = self.matrix.select(only)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._print(f"comparison {self.matrix.name}: {len(selected)} cells in {self.folder}")
        relay = SignalRelay()
        with FolderLock.hold(self.folder, _PATIENCE_SECONDS, self._print) as lock, relay.active():
            self._write(False)
            self._refuse_stale(selected)
            with Progress(self.console, len(selected)) as progress:
                runner = Runner(self.folder, self.program, lock, relay, progress)
                runner.run(selected, retry_failed, after_each=lambda: self._write(False))
        self._print_table()
        if relay.received is not None:
            self._print("interrupted; the same command goes on from here")
            return 128 + relay.received
        return self._exit_code(selected)

    def _refuse_stale(self, selected: Sequence[Cell]) -> None:
        stale = [
            result for result in collect_results(selected, self.folder, in_use=False) if result.record.status == "stale"
        ]
        if not stale:
            return
        names = ", ".join(result.cell.name for result in stale)
        raise InputError(
            f"stale, since trained with another definition ({stale[0].record.message}): {names}; undo the "
            "change, give the comparison another name, or remove these cells' folders in "
            f"{self.folder} to run them again"
        )

    def _write(self, busy: bool) -> None:
        results = collect_results(self.matrix.cells, self.folder, busy)
        write_results(self.folder / "results.csv", results)
        write_atomically(self.folder / "table.md", markdown_report(self.matrix.name, str(self.source), results))

    def _print_table(self) -> None:
        results = collect_results(self.matrix.cells, self.folder, in_use(self.folder))
        self.console.print(terminal_table(self.matrix.name, results))
        for line in unfinished_lines(results):
            self._print(line)
        self._print(f"every value: {self.folder / 'results.csv'}; this table: {self.folder / 'table.md'}")

    def _exit_code(self, selected: Sequence[Cell]) -> int:
        results = collect_results(selected, self.folder, in_use=False)
        return 0 if all(result.record.status == "finished" for result in results) else 1

    def _print(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

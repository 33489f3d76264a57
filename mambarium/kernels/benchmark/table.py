"""The benchmark's rows: a CSV file with one row per measurement, and lines to read."""

import csv
import datetime
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from mambarium.errors import InputError
from mambarium.kernels.benchmark.cases import Direction, Operation


@dataclass(frozen=True)
class Row:
    """One implementation at one case in one direction; None where there is nothing to tell."""

    machine: str
    date: str
    device: str
    threads: int
    """Of torch on the CPU."""
    torch: str
    operation: Operation
    implementation: str
    version: str
    direction: Direction
    dtype: str
    batch: int
    dim: int
    d_state: int
    length: int
    samples: int
    median_ms: float
    min_ms: float
    processor_median_ms: float | None
    """Processor time of all threads, which other programs on the machine do not add to."""
    processor_min_ms: float | None
    times_ours: float
    """Median time, as a multiple of our own median."""
    processor_times_ours: float | None
    limit_ms: float
    """The least that the machine can take."""
    percent_of_limit: float
    """limit_ms as a share of median_ms."""
    processor_percent_of_limit: float | None
    """The same of the processor time per thread."""
    peak_memory_mb: float | None
    """Beyond the inputs, in units of 2**20 bytes."""
    difference: float
    """Relative L2 distance of the output from ours."""


COLUMNS = [field.name for field in fields(Row)]


def machine_name(device: torch.device) -> str:
    """Return the processor's or GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def new_file(folder: Path, machine: str, threads: int | None) -> Path:
    """Return a path for a CSV file that does not exist yet, named by machine, day and, from the second on, a counter.

    Args:
        folder: where it shall lie.
        machine: the machine's name.
        threads: of the CPU, or None for a GPU.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    if threads is not None:
        slug += f"-{threads}-threads"
    stem = f"kernels_{slug}_{datetime.date.today().isoformat()}"
    path, count = folder / f"{stem}.csv", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}_{count}.csv"
    return path


class Table:
    """A CSV file that rows are added to as they are measured, so that an interrupted run keeps what it has."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        """Create the file with its header.

        Raises:
            InputError: it exists and may not be overwritten, or can't be written.
        """
        if path.exists() and not overwrite:
            raise InputError(f"--out: {path} exists already; give another name, or --overwrite")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w" if overwrite else "x", newline="") as file:
                csv.writer(file).writerow(COLUMNS)
        except OSError as error:
            raise InputError(f"--out: {path} can't be written: {error}") from None
        self.path = path
        self.rows: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows to the file."""
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            for row in rows:
                self.rows.append(row)
                writer.writerow({name: _rounded(value) for name, value in asdict(row).items()})


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


HEADER = (
    f"  {'':17} {'implementation':15} {'median ms':>10} {'min ms':>9} {'CPU ms':>9} {'x ours':>7} {'x (CPU)':>7} "
    f"{'% limit':>7} {'% (CPU)':>7} {'peak MB':>8} {'differs':>8}"
)


def line(row: Row) -> str:
    """Return a row to read under HEADER."""
    return (
        f"  {row.direction:17} {row.implementation:15} {row.median_ms:10.3f} {row.min_ms:9.3f} "
        f"{_number(row.processor_median_ms, 9, 3)} {row.times_ours:7.1f} {_number(row.processor_times_ours, 7, 1)} "
        f"{row.percent_of_limit:7.1f} {_number(row.processor_percent_of_limit, 7, 1)} "
        f"{_number(row.peak_memory_mb, 8, 1)} {row.difference:8.0e}"
    )


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"

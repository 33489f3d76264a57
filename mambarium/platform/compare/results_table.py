"""The comparison's results as one long CSV file: a row per cell and metric."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambarium.files import write_atomically
from mambarium.platform.compare.cell_definition import digest
from mambarium.platform.compare.cell_records import CellRecord, load_record
from mambarium.platform.compare.matrix import Cell

COLUMNS = (
    "task",
    "backbone",
    "seed",
    "metric",
    "value",
    "direction",
    "primary",
    "parameters",
    "train_seconds",
    "test_seconds",
    "checkpoint",
    "status",
    "message",
    "host",
    "versions",
    "date",
    "definition",
)


@dataclass(frozen=True)
class CellResult:
    """A cell together with how far it is."""

    cell: Cell
    record: CellRecord


def collect_results(cells: Sequence[Cell], folder: Path, in_use: bool) -> list[CellResult]:
    """Read how far each cell is; arguments as for `load_record`."""
    return [CellResult(cell, load_record(cell, folder, in_use)) for cell in cells]


def write_results(path: Path, results: Sequence[CellResult]) -> None:
    """Write the CSV file, atomically.

    A cell without an outcome has one row with its status and no value. `direction` stands at the primary
    metric only; numbers are written so that reading them gives the same float.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerows(_rows(result))
    write_atomically(path, text.getvalue())


def _rows(result: CellResult) -> list[dict[str, object]]:
    cell, record = result.cell, result.record
    common: dict[str, object] = {
        "task": cell.task,
        "backbone": cell.backbone,
        "seed": cell.seed,
        "status": record.status,
        "message": record.message,
        "host": record.host,
        "date": record.date,
        "definition": "" if record.definition is None else digest(record.definition),
    }
    outcome = record.outcome
    if outcome is None:
        return [common]
    common |= {
        "parameters": outcome.parameters,
        "train_seconds": outcome.train_seconds,
        "test_seconds": outcome.test_seconds,
        "checkpoint": outcome.checkpoint,
        "versions": "; ".join(f"{name} {version}" for name, version in sorted(outcome.versions.items())),
    }
    return [
        {
            **common,
            "metric": name,
            "value": repr(value),
            "direction": outcome.direction if name == outcome.primary_metric else "",
            "primary": int(name == outcome.primary_metric),
        }
        for name, value in outcome.metrics.items()
    ]

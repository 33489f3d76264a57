"""The comparison's results as one long CSV file: a row per cell and metric."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambarium.files import write_atomically
from mambarium.platform.compare.cell_definition import digest
from mambarium.platform.compare.cell_records import CellRecord, Outcome, load_record
from mambarium.platform.compare.matrix import Cell


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
    rows = [row for result in results for row in _rows(result)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _rows(result: CellResult) -> list[dict[str, object]]:
    cell, record, outcome = result.cell, result.record, result.record.outcome
    metrics: dict[str, float | None] = {"": None} if outcome is None else {**outcome.metrics}
    primary = outcome and outcome.primary_metric
    return [
        {
            "task": cell.task,
            "backbone": cell.backbone,
            "seed": cell.seed,
            "metric": name,
            "value": outcome and repr(value),
            "direction": outcome.direction if outcome and name == primary else None,
            "primary": outcome and int(name == primary),
            "parameters": outcome and outcome.parameters,
            "train_seconds": outcome and outcome.train_seconds,
            "test_seconds": outcome and outcome.test_seconds,
            "checkpoint": outcome and outcome.checkpoint,
            "status": record.status,
            "message": record.message,
            "host": record.host,
            "versions": outcome and listed_versions(outcome, "; "),
            "date": record.date,
            "definition": "" if record.definition is None else digest(record.definition),
        }
        for name, value in metrics.items()
    ]


def listed_versions(outcome: Outcome, separator: str) -> str:
    """Return the software that an outcome was measured with, in one text."""
    return separator.join(f"{name} {version}" for name, version in sorted(outcome.versions.items()))

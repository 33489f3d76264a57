"""How far each cell is: the comparison's own note beside the run folder, and what `fit` left there.

In `<runs_dir>/compare/<comparison>/` a cell has
    <cell>/             its run folder, which belongs to `fit` and `test`
    <cell>.cell.json    the note: definition, status, and the outcome once finished
    <cell>.log          all that its commands printed
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mambarium.errors import InputError
from mambarium.files import write_atomically
from mambarium.platform.compare.cell_definition import Definition, compared_values, digest
from mambarium.platform.compare.matrix import Cell
from mambarium.platform.runs.run_folder import config_differences

Status = Literal["pending", "running", "interrupted", "failed", "finished", "stale"]


@dataclass(frozen=True)
class Outcome:
    """What `fit` and `test` measured.

    Attributes:
        metrics: Test metrics by name, NaN for what doesn't occur in the test data.
        primary_metric: The name of the metric that the task goes by.
        direction: Whether more ("max") or less ("min") of it is better.
        checkpoint: Which checkpoint was tested.
        parameters: Number of parameters of the whole model.
        train_seconds: Training time over all interruptions.
        test_seconds: Time of the test.
        versions: Version of each part of the software, by name.
    """

    metrics: dict[str, float]
    primary_metric: str
    direction: Literal["max", "min"]
    checkpoint: str
    parameters: int
    train_seconds: float
    test_seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class CellRecord:
    """A cell's note.

    Attributes:
        definition: The definition that the cell's run was started with, None before its first start.
        status: How far the cell is.
        message: Why it failed, or what changed if it is stale.
        host: The machine that ran it.
        date: When it came to this status (ISO 8601, UTC).
        outcome: What was measured, None unless finished.
    """

    definition: Definition | None = None
    status: Status = "pending"
    message: str = ""
    host: str = ""
    date: str = ""
    outcome: Outcome | None = None


@dataclass(frozen=True)
class CellFiles:
    """Where a cell's files lie, by the comparison's folder and the cell's name."""

    folder: Path
    name: str

    @property
    def run_folder(self) -> Path:
        """The run folder, which belongs to `fit` and `test`."""
        return self.folder / self.name

    @property
    def note(self) -> Path:
        """The comparison's note."""
        return self.folder / f"{self.name}.cell.json"

    @property
    def log(self) -> Path:
        """All that the cell's commands printed."""
        return self.folder / f"{self.name}.log"


def save_record(files: CellFiles, record: CellRecord) -> None:
    """Write a cell's note, atomically."""
    write_atomically(files.note, json.dumps(asdict(record), indent=2, default=str) + "\n")


def load_record(cell: Cell, folder: Path, in_use: bool) -> CellRecord:
    """Tell how far a cell is, judged by its definition of today.

    If no process has the comparison's folder in use, a cell noted as running was interrupted. The status is "stale"
    where a trained run belongs to another definition, and "pending" where nothing that was learned is left.
    """
    files = CellFiles(folder, cell.name)
    if not files.note.is_file():
        return CellRecord()
    record = _parse_note(files.note)
    old = record.definition
    if old is None or digest(old) != cell.definition_hash:
        # Without a checkpoint there is nothing that the old definition could have left in the results.
        if old is None or not any((files.run_folder / "checkpoints").glob("*.ckpt")):
            return CellRecord()
        changes = config_differences(compared_values(old), compared_values(cell.definition))
        return CellRecord(old, "stale", _shortened(changes), record.host, record.date)
    if record.status == "running" and not in_use:
        return replace(record, status="interrupted")
    if record.status == "finished" and not _is_complete(files.run_folder):
        return CellRecord()
    return record


def read_outcome(run_folder: Path) -> Outcome:
    """Read what `fit` (run.json) and `test` (test.json) left in a run folder.

    Raises:
        InputError: A file is missing or lacks something; one line names it.
    """
    run, test = _read_json(run_folder / "run.json"), _read_json(run_folder / "test.json")
    if run.get("status") != "finished":
        raise InputError(f"{run_folder / 'run.json'}: status is {run.get('status')!r}, not 'finished'")
    try:
        outcome = Outcome(
            metrics={name: math.nan if value is None else float(value) for name, value in test["metrics"].items()},
            primary_metric=test["primary_metric"]["name"],
            direction=test["primary_metric"]["direction"],
            checkpoint=str(test["checkpoint"]),
            parameters=int(test["parameters"]),
            train_seconds=float(run["train_seconds"]),
            test_seconds=float(test["seconds"]),
            versions=_versions(run["parts"]),
        )
    except KeyError as error:
        raise InputError(f"{run_folder}: run.json and test.json lack {error}") from error
    if outcome.primary_metric not in outcome.metrics:
        raise InputError(f"{run_folder / 'test.json'}: no value for the primary metric {outcome.primary_metric!r}")
    return outcome


def _shortened(changes: list[str]) -> str:
    more = f"; {len(changes) - 3} more" if len(changes) > 3 else ""
    return "; ".join(changes[:3]) + more


def _versions(parts: list[dict[str, Any]]) -> dict[str, str]:
    """Return the software of a run, with all versions of what changed between its parts."""
    versions: dict[str, list[str]] = {}
    for part in parts:
        for name, version in {"python": part["python"], **part["versions"]}.items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return {name: " then ".join(found) for name, found in versions.items()}


def _parse_note(path: Path) -> CellRecord:
    content = _read_json(path)
    try:
        outcome = content.pop("outcome")
        return CellRecord(**content, outcome=None if outcome is None else Outcome(**outcome))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: no note of a cell ({error}); remove it to run the cell again") from error


def _is_complete(run_folder: Path) -> bool:
    run, test = run_folder / "run.json", run_folder / "test.json"
    return run.is_file() and test.is_file() and _read_json(run).get("status") == "finished"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object")
    return content

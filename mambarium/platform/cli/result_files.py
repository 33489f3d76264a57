"""Results of evaluations: files beside a run, none of which ever takes the place of another's."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mambarium.errors import InputError
from mambarium.files import write_atomically

IDENTITY = ("checkpoint", "step", "changed", "data")
"""Entries by which two results are of the same evaluation."""


def recorded(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as files have them: None, null in JSON, where there is no figure, as of a class that doesn't occur."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def metric_lines(metrics: Mapping[str, float | None]) -> list[str]:
    """Return recorded metrics to be printed, a line each, means over classes with the number of classes."""
    counts = {name.removesuffix("_classes"): value for name, value in metrics.items() if name.endswith("_classes")}
    counts = {name: value for name, value in counts.items() if name in metrics}
    absent = "; those that do not occur have no figure" if None in metrics.values() else ""
    lines = []
    for name, value in metrics.items():
        if name.endswith("_classes") and name.removesuffix("_classes") in counts:
            continue
        over = f"   (mean over {counts[name]:.0f} classes{absent})" if name in counts else ""
        lines.append(f"  {name:20} {'none' if value is None else f'{value:.4f}'}{over}")
    return lines


def write_result(path: Path, content: dict[str, Any]) -> Path:
    """Write the result of an evaluation, and return its file; a newer one of the same takes the older one's place.

    Where the file holds the result of another evaluation, a number is added to its name.
    """
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    result = next(name for name in names if not name.exists() or same_evaluation(name, content))
    write_atomically(result, json.dumps(content, indent=2) + "\n")
    return result


def same_evaluation(path: Path, content: dict[str, Any]) -> bool:
    """Whether a file holds a result of the same checkpoint, options and data.

    Raises:
        InputError: If it holds no result.
    """
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no result of an evaluation ({error}); move it away first") from error
    return isinstance(old, dict) and all(old.get(key) == content[key] for key in IDENTITY)

"""What differs between two finished runs that should be the same but for the time they took."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

CHECKPOINTS = ("last.ckpt", "best.ckpt")
RECORDED = ("status", "step", "checkpoint_step", "metrics", "primary_metric", "parameters", "references")
"""Entries of run.json that follow from the training."""

TIMES = ("seconds", "stopped_epoch")
"""Keys of a checkpoint that follow from the clock, or from Lightning's count of epochs, which nothing uses."""


def differences(first: Path, second: Path) -> list[str]:
    """Compare two run folders bit for bit.

    Lightning's loop counters are left out: they differ after an interruption, and a run puts its own in their place.

    Args:
        first: The folder of an undisturbed run.
        second: The folder of the other.

    Returns:
        A line for each difference.
    """
    found = []
    for name in CHECKPOINTS:
        paths = [folder / "checkpoints" / name for folder in (first, second)]
        if not all(path.is_file() for path in paths):
            found += [f"{name}: not in both"] if any(path.is_file() for path in paths) else []
            continue
        one, other = (torch.load(path, map_location="cpu", weights_only=True) for path in paths)
        found += [f"{name}: {place}" for key in {*one, *other} - {"loops"} for place in unequal(one, other, key)]
    if rows(first) != rows(second):
        found.append(f"metrics.csv: {len(rows(first))} and {len(rows(second))} rows that are not the same")
    one, other = events(first), events(second)
    for name in {*one, *other}:
        if one.get(name) != other.get(name):
            found.append(
                f"tensorboard/{name}: {len(one.get(name, []))} and {len(other.get(name, []))} events, not the same"
            )
    records = [json.loads(path.read_text()) for folder in (first, second) if (path := folder / "run.json").exists()]
    if records:
        found += [f"run.json: {key}" for key in RECORDED if records[0].get(key) != records[-1].get(key)]
    left = [path.name for path in second.rglob(".*.tmp")]
    return found + ([f"left behind: {', '.join(left)}"] if left else [])


def unequal(one: dict, other: dict, key: Any, place: str = "") -> list[str]:
    """Return the places below a key of two nested states in which they are not bitwise equal."""
    here = f"{place}{key}"
    if key in TIMES:
        return []
    if key not in one or key not in other:
        return [f"{here} not in both"]
    first, second = one[key], other[key]
    if isinstance(first, list | tuple) and type(first) is type(second) and len(first) == len(second):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if isinstance(first, dict) and isinstance(second, dict):
        return [found for child in {**first, **second} for found in unequal(first, second, child, f"{here}.")]
    return [] if same_value(first, second) else [here]


def same_value(first: Any, second: Any) -> bool:
    """Whether two values are the same bit for bit; NaN is like NaN."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        alike = (first.dtype, first.shape) == (second.dtype, second.shape)
        return (
            alike and first.numpy().tobytes() == second.numpy().tobytes()
            if first.dtype != torch.bfloat16
            else (alike and torch.equal(first.view(torch.int16), second.view(torch.int16)))
        )
    return type(first) is type(second) and repr(first) == repr(second)


def rows(folder: Path) -> list[list[str]]:
    """Return the header and rows of metrics.csv without the seconds."""
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.reader(file))
    seconds = table[0].index("seconds")
    return [row[:seconds] + row[seconds + 1 :] for row in table]


def events(folder: Path) -> dict[str, list[bytes]]:
    """Return what TensorBoard would read, in its order, by sub-folder: all kinds of events without their times.

    Hyper-parameters hold the time too and are counted only.
    """
    found: dict[str, list[bytes]] = {}
    for path in sorted((folder / "tensorboard").rglob("events.out.tfevents.*")):
        contents = found.setdefault(str(path.parent.relative_to(folder / "tensorboard")), [])
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.WhichOneof("what") == "file_version":
                continue
            event.wall_time = 0
            if any(value.tag.startswith("_hparams_/") for value in event.summary.value):
                event.ClearField("summary")
            contents.append(event.SerializeToString(deterministic=True))
    return found

"""Starting a task from weights that were trained before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mambarium.backbones.adapters import SequenceOnImages
from mambarium.backbones.published.configuration import flattened, same
from mambarium.backbones.published.loading import Assignment, assign, fit_backbone, read_weights, report
from mambarium.backbones.published.report import LoadReport
from mambarium.errors import InputError

if TYPE_CHECKING:
    from mambarium.tasks.task import Task


def load_pretrained(task: Task, source: str | Path, *, ema: bool | None = None) -> LoadReport:
    """Load weights into a task: all of the backbone, and of the head what fits.

    Of published weights, the head serves image classification and language modelling; of a checkpoint of ours, what has
    the same names and shapes. A head for another number of classes is left as it was, and reported; of a vocabulary of
    another size the rows that both have are loaded.

    Args:
        task: Where the weights go.
        source: As for `mambarium.backbones.load_pretrained`.
        ema: Likewise.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: As `mambarium.backbones.load_pretrained`; and if the file has a vocabulary head of its own where the
            task ties it to the embedding.
    """
    pretrained = read_weights(task.backbone, source, ema)
    backbone = fit_backbone(task.backbone, pretrained)
    objective, recognised = task.objective, pretrained.recognised
    state = objective.state_dict()
    if recognised is None:
        head = assign(
            state, {name: f"objective.{name}" for name in state}, pretrained.weights, objective.resized, pretrained
        )
    elif isinstance(task.backbone, SequenceOnImages):
        head = Assignment({}, set(), [], list(state), [])  # a published head is one for words
    else:
        keys = {name: recognised.family.head_key(theirs) for name, theirs in objective.published_names().items()}
        head = assign(state, keys, recognised.weights, objective.resized, pretrained)
    check_ties(state, head, pretrained.checkpoint.source)
    task.backbone.load_state_dict(backbone.values, strict=False)
    objective.load_state_dict(head.values, strict=False)
    found = report(pretrained, backbone, head)
    if recognised is None:
        stored = pretrained.checkpoint.content.get("hyper_parameters", {}).get("backbone")
        found.notes.extend(
            f"{pretrained.checkpoint.source}: {other}" for other in other_settings(stored, task.hparams.get("backbone"))
        )
    return found


def other_settings(theirs: Any, ours: Any) -> list[str]:
    """Return settings of a backbone that a checkpoint of ours was trained with otherwise, but for dropout.

    Both are class and arguments as the command line records them, ours perhaps of a backbone around it.
    """
    if not isinstance(theirs, Mapping) or not isinstance(ours, Mapping):
        return []
    if theirs.get("class_path") != ours.get("class_path"):
        return other_settings(theirs, (ours.get("init_args") or {}).get("backbone"))
    family = str(theirs.get("class_path")).rpartition(".")[2]
    before, now = flattened(theirs.get("init_args") or {}), flattened(ours.get("init_args") or {})
    return [
        f"trained with {family}'s {name} {value!r}, here it is {now[name]!r}"
        for name, value in before.items()
        if name in now and not same(value, now[name]) and not name.endswith(("drop_path", "dropout"))
    ]


def check_ties(state: dict[str, Tensor], head: Assignment, source: str) -> None:
    """Raise InputError for two different values of parameters that are one."""
    first_names: dict[int, str] = {}
    for name in head.values:
        first = first_names.setdefault(state[name].data_ptr(), name)
        if not torch.equal(head.values[first], head.values[name]):
            raise InputError(f"{source} has a vocabulary head that isn't its embedding; set tie_embedding to false")

"""Starting a task from weights that were trained before, and writing its weights for others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mambarium.backbones.mamba import Mamba
from mambarium.backbones.published import mamba as published_mamba
from mambarium.backbones.published.loading import Assignment, assign, fit_backbone, read_pretrained, report
from mambarium.backbones.published.report import LoadReport
from mambarium.backbones.published.writing import official_weights, write_safetensors
from mambarium.errors import InputError
from mambarium.tasks.objective import Objective

if TYPE_CHECKING:
    from mambarium.tasks.task import Task


def load_pretrained(task: Task, source: str | Path, *, ema: bool | None = None) -> LoadReport:
    """Load weights into a task: all of the backbone, and of the head what fits.

    Of published weights, the head serves image classification and language modelling; of a checkpoint of ours, what has
    the same names and shapes. A head for another number of classes is left as it was, and reported.

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
    pretrained = read_pretrained(source, ema)
    backbone = fit_backbone(task.backbone, pretrained)
    objective, recognised = task.objective, pretrained.recognised
    state = objective.state_dict()
    if recognised is None:
        head = assign(state, {name: f"objective.{name}" for name in state}, pretrained.weights, objective.resized)
    else:
        keys = {name: recognised.format.head_key(theirs) for name, theirs in objective.published_names().items()}
        head = assign(state, keys, recognised.weights, objective.resized)
    check_ties(state, head, str(source))
    task.backbone.load_state_dict(backbone.values, strict=False)
    objective.load_state_dict(head.values, strict=False)
    return report(pretrained, backbone, head)


def check_ties(state: dict[str, Tensor], head: Assignment, source: str) -> None:
    """Refuse two different values for parameters that are one.

    Raises:
        InputError: If there are such.
    """
    first_names: dict[int, str] = {}
    for name in head.values:
        first = first_names.setdefault(state[name].data_ptr(), name)
        if not torch.equal(head.values[first], head.values[name]):
            raise InputError(f"{source} has a vocabulary head that isn't its embedding: set tie_embedding to false")


def export_official(task: Task, path: str | Path) -> None:
    """Write backbone and head with the keys and shapes of the family's official code, as a new safetensors file.

    A head that the family hasn't published (detection, segmentation) is left out; so is a language model's that is its
    embedding's matrix.

    Args:
        task: What to write.
        path: The file, with the suffix .safetensors.

    Raises:
        InputError: If the family has no published format, or the file exists or can't be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the official format is written as safetensors, give a name with that suffix")
    write_safetensors(official_weights(task.backbone, published_head(task.objective)), path)


def export_transformers(task: Task, folder: str | Path) -> None:
    """Write a Mamba language model as a new folder that transformers' `MambaForCausalLM.from_pretrained` reads.

    Args:
        task: `LanguageModeling` with a `Mamba`.
        folder: The folder, for config.json and model.safetensors.

    Raises:
        InputError: If the task is another one, or the folder exists or can't be written.
    """
    folder = Path(folder)
    head = published_head(task.objective)
    if not isinstance(task.backbone, Mamba) or "embedding.weight" not in head:
        raise InputError(
            f"transformers has no {type(task).__name__} with {type(task.backbone).__name__}: of the models here it has "
            "Mamba for language modelling; give --format official"
        )
    if folder.exists():
        raise InputError(f"{folder} exists: give another path, or remove it")
    weights = published_mamba.to_transformers(official_weights(task.backbone, head))
    tied = head["embedding.weight"].data_ptr() == head["head.weight"].data_ptr()
    config = published_mamba.transformers_config(task.backbone, len(head["embedding.weight"]), tied)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write_safetensors(weights, temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, folder)
    except OSError as error:
        raise InputError(f"{folder} can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def published_head(objective: Objective) -> dict[str, Tensor]:
    """The tensors of an objective that belong to the family's published head, by their names there."""
    state = objective.state_dict()
    return {theirs: state[name] for name, theirs in objective.published_names().items()}

"""`export`: a checkpoint's weights in the format of others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentError

from mambarium.errors import InputError
from mambarium.platform.cli.checkpoint_choice import load_checkpoint
from mambarium.tasks import export_official, export_transformers
from mambarium.tasks.task import Task


def export(checkpoint: Path, output: Path, format: Literal["official", "transformers"] = "official") -> int:
    """Write a checkpoint's weights for the code of others; of a run with averaged weights, these.

    Args:
        checkpoint: A checkpoint that `fit` wrote.
        output: What to write: a safetensors file, or for transformers a folder. Nothing is overwritten.
        format: Keys and shapes of the family's official code, or a folder for transformers (Mamba language models).

    Raises:
        InputError: If the checkpoint can't be read, has no such format, or the output exists.
    """
    if output.exists():
        raise InputError(f"{output} exists: give another --output, or remove it")
    task = configured_task(checkpoint)
    if format == "official":
        export_official(task, output)
    else:
        export_transformers(task, output)
    print(f"{format} format of {checkpoint}: {output}")
    return 0


def configured_task(path: Path) -> Task:
    """The task of a checkpoint that the command line wrote, with its weights.

    Raises:
        InputError: If the file is no such checkpoint, or its task can't be built.
    """
    checkpoint = load_checkpoint(path)
    class_path = checkpoint.get("hyper_parameters", {}).get("_class_path")
    if class_path is None:
        raise InputError(
            f"{path} has no configuration of its model: build the task in Python, load the weights with "
            "mambarium.tasks.load_pretrained and call mambarium.tasks.export_official"
        )
    name = class_path.rsplit(".", 1)[-1]
    task_class = next((known for known in task_classes() if known.__name__ == name), None)
    if task_class is None:
        raise InputError(f"{path} is of a {class_path}, which is none of this package's tasks")
    try:
        return task_class.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    # What jsonargparse, Lightning and torch raise for classes that aren't there, arguments and weights that don't fit.
    except (ArgumentError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: its model can't be built ({str(error).splitlines()[0]})") from error


def task_classes() -> list[type[Task]]:
    """All tasks that are imported; classes that a checkpoint names are not, since importing runs code."""
    found: list[type[Task]] = Task.__subclasses__()
    for known in found:
        found.extend(known.__subclasses__())
    return found

"""Writing a task's weights in the formats of others."""

import json
import os
import shutil
from pathlib import Path

from torch import Tensor

from mambarium.backbones.language.mamba import mamba_checkpoints as published_mamba
from mambarium.backbones.language.mamba.mamba_backbone import Mamba
from mambarium.backbones.published.writing import official_weights, write_safetensors
from mambarium.errors import InputError
from mambarium.tasks.objective import Objective
from mambarium.tasks.task import Task


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
        raise InputError(f"{folder} exists; give another path, or remove it")
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
    """Return the tensors of an objective that belong to the family's published head, by their names there."""
    state = objective.state_dict()
    return {theirs: state[name] for name, theirs in objective.published_names().items()}

"""Which checkpoint a command uses, and whether it fits the configuration and the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.composition import with_variants
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO
from mambarium.platform.runs.run_folder import RunFolder, config_differences

CKPT_PATH_HELP = {
    "fit": "Checkpoint to start from: a file, or last or best of the run; not one of the run itself, which goes on by "
    "itself.",
    **dict.fromkeys(
        ("validate", "test", "predict"),
        "Checkpoint to use: last (taken if not given) or best of the run, or a file. Without --config, its own "
        "configuration is used.",
    ),
}
"""What `--ckpt_path` means, by command."""


def run_path(name: str | None, runs_dir: Path, config_files: list[Path], ckpt_path: str | None) -> Path:
    """Return the folder of the run that a command is about.

    Args:
        name: The run's name, if given.
        runs_dir: Where the folders of runs lie.
        config_files: The configuration files: the first gives the name; a run's own `config.yaml` stands for that run.
        ckpt_path: The option's value: a file in a run's folder stands for that run, another gives its own name.

    Raises:
        InputError: If none of them says it.
    """
    if name:
        return runs_dir / name
    if config_files:
        file = config_files[0]
        return (
            file.parent if file.name == "config.yaml" and (file.parent / "run.json").is_file() else runs_dir / file.stem
        )
    if ckpt_path in (None, "last", "best"):
        raise InputError("which run? give --config FILE, --name RUN, or --ckpt_path FILE with a checkpoint to evaluate")
    file = Path(str(ckpt_path))
    run = file.absolute().parent.parent
    return (
        file.parent.parent
        if (run / "run.json").is_file() and file.parent.name == "checkpoints"
        else runs_dir / file.stem
    )


def choose_checkpoint(choice: str | None, folder: RunFolder) -> Path:
    """Return the checkpoint file of a `--ckpt_path` value.

    Args:
        choice: `last`, `best`, a file, or None for `last`.
        folder: The run's folder.

    Raises:
        InputError: If there is no such checkpoint.
    """
    if choice in (None, "last"):
        path = folder.last_checkpoint
    elif choice == "best":
        path = folder.best_checkpoint
    else:
        path = Path(str(choice))
        if not path.is_file():
            raise InputError(f"--ckpt_path {choice}: no such file; give last, best or a checkpoint's path")
        return path
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; run fit first, or give --name or --ckpt_path")
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, verified.

    Raises:
        InputError: If the file is damaged or no checkpoint.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    if not isinstance(checkpoint, dict):
        raise InputError(
            f"{path} is no checkpoint: it holds a {type(checkpoint).__name__} where a checkpoint has named entries; "
            "give a file that fit wrote"
        )
    return checkpoint


def check_fit(checkpoint: dict[str, Any], model: nn.Module, path: Path) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        InputError: With the first parameter that differs.
    """
    stored, expected = checkpoint.get("state_dict"), model.state_dict()
    if not isinstance(stored, dict):
        raise InputError(f"{path} has no 'state_dict': it is not a Lightning checkpoint")
    for key, tensor in expected.items():
        if key not in stored:
            raise InputError(f"{path} is of another model: it lacks '{key}'; use the configuration it was trained with")
        if not isinstance(stored[key], Tensor):
            raise InputError(f"{path} is damaged: its {key!r} is no tensor but {type(stored[key]).__name__}")
        if stored[key].shape != tensor.shape:
            raise InputError(
                f"{path} is of another model: '{key}' has shape {tuple(stored[key].shape)}, the configured model's "
                f"{tuple(tensor.shape)}; use the configuration it was trained with"
            )
    for key in stored:
        if key not in expected:
            raise InputError(
                f"{path} is of another model: it also has '{key}'; use the configuration it was trained with"
            )


def check_same_run(checkpoint: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    """Refuse to go on with the training of a checkpoint of which it isn't known that it was trained as configured.

    Raises:
        InputError: If it has no configuration, or another one.
    """
    if "run_config" not in checkpoint:
        raise InputError(
            f"{path} is no checkpoint that fit wrote, so no run can go on from it; where it holds published weights or "
            f"those of a task, a run starts from them with --model.pretrained {path} in place of --ckpt_path"
        )
    if differences := checkpoint_differences(checkpoint, config, path):
        raise InputError(f"{path} was trained with another configuration ({'; '.join(differences)})")


def checkpoint_differences(
    checkpoint: dict[str, Any], config: dict[str, Any], path: Path, section: str | None = None
) -> list[str]:
    """Where a checkpoint's configuration differs from the one in use, as `key: checkpoint's -> in use`.

    Args:
        checkpoint: The checkpoint; one without a configuration differs nowhere.
        config: The configuration in use.
        path: The checkpoint's file, for messages.
        section: Compare this section only.
    """
    stored = stored_config(checkpoint, path)
    if not stored:
        return []
    if section is not None:
        stored, config = {section: stored.get(section)}, {section: config.get(section)}
    return config_differences(stored, config)


def stored_config(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the configuration that a checkpoint was trained with, empty if it has none.

    Raises:
        InputError: If what it has is none.
    """
    try:
        config = yaml.safe_load(checkpoint.get("run_config", "{}"))
    except (yaml.YAMLError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: its configuration can't be read ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: its configuration is no mapping of sections but {type(config).__name__}")
    return with_variants(config)

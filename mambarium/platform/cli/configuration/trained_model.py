"""The checkpoint that a command uses: which it is, what it says of the model it holds, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mambarium.errors import InputError
from mambarium.platform.cli.boundary import one_line
from mambarium.platform.cli.configuration.composition import with_variants
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO
from mambarium.platform.runs.run_folder import RunFolder, config_differences, parsed_config
from mambarium.trust import check_named_classes

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

KEPT_TRAINER_OPTIONS = ("precision",)
"""What evaluation takes over of the Trainer's options: the rest is about training, or about the machine."""


def run_path(name: str | None, runs_dir: Path, config_files: list[Path], ckpt_path: str | None) -> Path:
    """Return the folder of the run that a command is about.

    The run's name says it, else the first configuration file by its own name, else a `--ckpt_path` file. The
    `config.yaml` and the checkpoints in a run's folder stand for that run.

    Raises:
        InputError: If none of them says it.
    """
    if name:
        return runs_dir / name
    if config_files:
        file = config_files[0]
        is_of_a_run = file.name == "config.yaml" and (file.parent / "run.json").is_file()
        return file.parent if is_of_a_run else runs_dir / file.stem
    if ckpt_path in (None, "last", "best"):
        raise InputError("which run? give --config FILE, --name RUN, or --ckpt_path FILE with a checkpoint to evaluate")
    file = Path(str(ckpt_path))
    is_of_a_run = file.parent.name == "checkpoints" and (file.absolute().parent.parent / "run.json").is_file()
    return file.parent.parent if is_of_a_run else runs_dir / file.stem


def choose_checkpoint(choice: str | None, folder: RunFolder) -> TrainedModel:
    """Return what a `--ckpt_path` value leads to: last (also for None) or best of the run's folder, or a file.

    Raises:
        InputError: If there is no such checkpoint, or the file is damaged or no checkpoint.
    """
    if choice in (None, "last", "best"):
        path = folder.best_checkpoint if choice == "best" else folder.last_checkpoint
        fault = f"{path}: no such checkpoint; run fit first, or give --name or --ckpt_path"
    else:
        path = Path(str(choice))
        fault = f"--ckpt_path {choice}: no such file; give last, best or a checkpoint's path"
    if not path.is_file():
        raise InputError(fault)
    content = AtomicCheckpointIO().load_checkpoint(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is no checkpoint: it holds a {type(content).__name__} where a checkpoint has named entries; "
            "give a file that fit wrote"
        )
    return TrainedModel(path, content)


class TrainedModel:
    """The verified content of a checkpoint, and the path of its file."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @cached_property
    def run_config(self) -> dict[str, Any]:
        """The configuration that the model was trained with, empty if the checkpoint has none.

        Raises:
            InputError: If it is not one.
        """
        try:
            return with_variants(parsed_config(self.content.get("run_config", "{}")))
        except ValueError as error:
            raise InputError(f"{self.path}: its configuration can't be read ({one_line(error)})") from error

    def description(self, trusted: Iterable[str]) -> dict[str, Any]:
        """Return the configuration that builds the model and its data for evaluation.

        Args:
            trusted: Modules that the user trusts, which it may name.

        Raises:
            InputError: If there is none, or it names other code.
        """
        for section in ("model", "data"):
            if not isinstance(self.run_config.get(section), dict):
                raise InputError(
                    f"{self.path} doesn't say what its {section} is, as checkpoints of the command line do; give the "
                    "configuration that it was trained with, --config FILE"
                )
        trainer = self.run_config.get("trainer")
        options = trainer if isinstance(trainer, dict) else {}
        described = {
            "seed_everything": self.run_config.get("seed_everything", 0),
            "model": self.run_config["model"],
            "data": self.run_config["data"],
            "trainer": {key: options[key] for key in KEPT_TRAINER_OPTIONS if key in options},
        }
        check_named_classes(described, str(self.path), trusted)
        return described

    @property
    def global_step(self) -> int:
        """Optimiser steps that the model was trained for; 0 if the checkpoint doesn't say it."""
        step = self.content.get("global_step")
        return step if isinstance(step, int) else 0

    def data_state(self, data_class: type[ExactDataModule]) -> dict[str, Any] | None:
        """Return what a data module of this class knew of its data, as Lightning keeps it; None if nothing is kept."""
        state = self.content.get(data_class.__qualname__)
        return state if isinstance(state, dict) else None

    def check_fit(self, model: nn.Module) -> None:
        """Refuse a checkpoint of another model, with the first parameter that differs."""
        stored, expected = self.content.get("state_dict"), model.state_dict()
        if not isinstance(stored, dict):
            raise InputError(f"{self.path} has no 'state_dict': it is not a Lightning checkpoint")
        for key in [*expected, *stored]:
            if key not in stored:
                difference = f"it lacks '{key}'"
            elif key not in expected:
                difference = f"it also has '{key}'"
            elif not isinstance(stored[key], Tensor):
                raise InputError(f"{self.path} is damaged: its {key!r} is no tensor but {type(stored[key]).__name__}")
            elif stored[key].shape != expected[key].shape:
                difference = (
                    f"'{key}' has shape {tuple(stored[key].shape)}, the configured model's {tuple(expected[key].shape)}"
                )
            else:
                continue
            raise InputError(
                f"{self.path} is of another model: {difference}; use the configuration it was trained with"
            )

    def check_same_run(self, config: dict[str, Any]) -> None:
        """Refuse to go on with the training of a checkpoint that isn't known to have been trained as configured."""
        if "run_config" not in self.content:
            raise InputError(
                f"{self.path} is no checkpoint that fit wrote, so no run can go on from it; where it holds published "
                f"weights or those of a task, a run starts from them with --model.pretrained {self.path} in place of "
                "--ckpt_path"
            )
        if differences := self.differences(config):
            raise InputError(f"{self.path} was trained with another configuration ({'; '.join(differences)})")

    def differences(self, config: dict[str, Any], section: str | None = None) -> list[str]:
        """Where the checkpoint's configuration, or a section of it, differs from that in use; one without, nowhere."""
        stored = self.run_config
        if stored and section is not None:
            stored, config = {section: stored.get(section)}, {section: config.get(section)}
        return config_differences(stored, config) if stored else []

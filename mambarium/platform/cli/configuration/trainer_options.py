"""The Lightning Trainer of a command, from the user's `trainer` section."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mambarium.errors import InputError
from mambarium.platform.callbacks import PredictionPictures, TextSamples
from mambarium.platform.cli.configuration.devices import device_settings
from mambarium.platform.cli.progress_line import Progress
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.position import Position
from mambarium.platform.runs.callbacks import check_callbacks
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO
from mambarium.platform.runs.run_folder import RunFolder
from mambarium.platform.runs.trainer_settings import exact_callbacks, exact_loggers, exact_trainer_settings
from mambarium.tasks.task import Task


class RunConfig(Callback):
    """Keeps the run's configuration in every checkpoint, as YAML text under `run_config`."""

    def __init__(self, config: str) -> None:
        self.config = config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run_config"] = self.config


def fit_trainer(
    options: dict[str, Any], folder: RunFolder, data: ExactDataModule, seed: int, task: Task, config: str
) -> Trainer:
    """Return the Trainer of `fit`: exactly resumable, with our loggers and callbacks beside the user's.

    Samples are shown in TensorBoard by `PredictionPictures` and `TextSamples`, progress on the terminal by `Progress`,
    unless the user configured their own. Options are the instantiated `trainer` section, `config` is the resolved
    configuration as YAML.

    Raises:
        InputError: If an option or a callback has no meaning in an exactly resumable run, or can't be had, or the run's
            length isn't given once.
    """
    check_length(options, data)
    if options["precision"] == "16-true":
        raise InputError(
            "trainer.precision 16-true: float16 weights lose small updates, and AdamW's eps of 1e-8 is 0 in float16; "
            "set 16-mixed on a GPU, or bf16-mixed"
        )
    users = as_list(options["callbacks"])
    check_callbacks(users, task.logged_names)
    callbacks = exact_callbacks(folder.checkpoints, seed, task.primary_metric, options["val_check_interval"])
    position = callbacks[0]
    assert isinstance(position, Position)
    kinds = {type(callback) for callback in users}
    ours = [callback for callback in (PredictionPictures(), TextSamples()) if type(callback) not in kinds]
    callbacks += [RunConfig(config), *ours, *users]
    if options["enable_progress_bar"] is not False and not has_progress_bar(users):
        callbacks.append(Progress())
    settings = exact_trainer_settings(options)
    settings["callbacks"] = callbacks
    loggers = [] if isinstance(options["logger"], bool) else as_list(options["logger"])
    settings["logger"] = [*exact_loggers(folder.path, position), *loggers]
    return make_trainer(settings)


def evaluation_trainer(options: dict[str, Any], seed: int, devices: int | None = None) -> Trainer:
    """Return the Trainer of `validate`, `test` and `predict`: no loggers, no checkpoints, no bar but the user's.

    Options are the instantiated `trainer` section; the number of devices, if given, is used instead of its own.
    """
    settings = exact_trainer_settings(options)
    users = as_list(options["callbacks"])
    check_callbacks(users)
    settings.update(
        callbacks=[Position(seed), *users],
        logger=False,
        enable_progress_bar=has_progress_bar(users),
        max_steps=-1,
        accumulate_grad_batches=1,
    )
    if devices is not None:
        settings.update(devices=devices, num_nodes=1, strategy="auto")
    return make_trainer(settings)


def make_trainer(settings: dict[str, Any]) -> Trainer:
    """Return a Trainer with our checkpoint files, on one device unless told otherwise; a summary only if asked for.

    Raises:
        InputError: If Lightning refuses an option.
    """
    settings = device_settings(settings)
    settings["plugins"] = [*settings["plugins"], AtomicCheckpointIO()]
    settings["enable_model_summary"] = bool(settings["enable_model_summary"])
    try:
        return Trainer(**settings)
    # Lightning's checks of its options raise all of these
    except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error


def check_length(options: dict[str, Any], data: ExactDataModule) -> None:
    """Refuse a run whose length is given twice, not at all, or as 0 steps, and steps of no batches."""
    if not options["accumulate_grad_batches"] >= 1:
        raise InputError(f"trainer.accumulate_grad_batches is {options['accumulate_grad_batches']}; give 1 or more")
    if options["max_steps"] == 0:
        raise InputError("trainer.max_steps is 0; give 1 or more, or leave it out and set data.passes")
    steps = options["max_steps"] is not None and options["max_steps"] > 0
    if data.passes is None and not steps:
        raise InputError("the length of the run is not given; set data.passes or trainer.max_steps")
    if data.passes is not None and steps:
        raise InputError(
            "the length of the run is given twice, by data.passes and trainer.max_steps; set data.passes to null or "
            "trainer.max_steps to -1"
        )


def has_progress_bar(callbacks: list[Callback]) -> bool:
    """Whether the user configured a bar."""
    return any(isinstance(callback, ProgressBar) for callback in callbacks)


def as_list(value: Any) -> list:
    """Return a value, several or none as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]

"""What is used of Lightning 2.6 beyond its public names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, EarlyStopping, Timer, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.optim import Optimizer


def is_built_by_the_command_line() -> bool:
    """Whether a module is being built by LightningCLI, which hands over its arguments as plain data."""
    return bool(_given_hyperparameters.get())


def optimizer_unscales_gradients(optimizer: Optimizer) -> bool:
    """Whether an optimiser divides gradients by the scaler's factor itself, as fused ones do."""
    return _optimizer_handles_unscaling(optimizer)


def starts_the_command_again(strategy: DDPStrategy) -> bool:
    """Whether a DDPStrategy starts its other processes by running the command again."""
    return strategy._start_method == "popen"


def starts_processes_by_command(launcher: Any) -> bool:
    """Whether a strategy's launcher starts the run's other processes by running the command again."""
    return isinstance(launcher, subprocess_script._SubprocessScriptLauncher)


@contextmanager
def processes_unwatched() -> Iterator[None]:
    """Keep Lightning's observer off the processes that it starts inside the block.

    It kills all processes, this one included, before the record of the run is written.
    """
    watch = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = lambda child_processes: None
    try:
        yield
    finally:
        subprocess_script._launch_process_observer = watch


def drop_signal_handlers(trainer: Trainer) -> None:
    """Have Lightning forget which signal handlers stood before its own, so that it puts none back over ours."""
    trainer._signal_connector._original_handlers.clear()


def watches_the_cpu(callback: DeviceStatsMonitor) -> bool:
    """Whether `cpu_stats` was left on."""
    return callback._cpu_stats is not False


def checks_after_epochs(callback: EarlyStopping) -> bool:
    """Whether `check_on_train_epoch_end` was set."""
    return bool(callback._check_on_train_epoch_end)


def looks_after_epochs(callback: Timer) -> bool:
    """Whether `interval` is "epoch"."""
    return callback._interval == "epoch"


def averaged_model(callback: Callback) -> Any:
    """Return the running average of a WeightAveraging, with `module` and `n_averaged`; None outside of fit."""
    return callback._average_model if isinstance(callback, WeightAveraging) else None


class VerbsCLI(LightningCLI):
    """LightningCLI with options of our own for each verb, and without Lightning's reading of checkpoints.

    A subclass defines `add_arguments_to_verb` and `run_verb`.
    """

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.add_arguments_to_verb(parser, subcommand)
        return parser

    def add_arguments_to_verb(self, parser: LightningArgumentParser, verb: str) -> None:
        """Add the options of a verb."""
        raise NotImplementedError

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint's arguments override the configuration."""

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_verb(subcommand)

    def run_verb(self, verb: str) -> None:
        """Do what was asked for; all is instantiated."""
        raise NotImplementedError


def place_between_batches(
    fit_loop: dict[str, Any], finished_batches: int, optimizer_steps: int, validation_owed: bool
) -> None:
    """Rewrite the state of Lightning's fit loop, in place, to "so many batches done, the next not begun".

    Lightning guesses from its counters in which hook a checkpoint was written and repeats or skips
    validations and log steps accordingly; the counters also drift over chains of resumes. Ours are the truth,
    so the guess is taken out of play. A validation is owed if it follows these batches and has not been completed.
    The names are Lightning 2.6's (`loops/fit_loop.py`, `training_epoch_loop.py`, `evaluation_loop.py`).
    """
    # one unfinished epoch: Lightning then neither begins a new one nor takes training for done
    _set_progress(fit_loop["epoch_progress"], ready=1, started=1, processed=0, completed=0)
    batches = fit_loop["epoch_loop.batch_progress"]
    _set_progress(batches, **dict.fromkeys(("ready", "started", "processed", "completed"), finished_batches))
    batches["is_last_batch"] = False
    # Lightning counts the step only after the validation that follows it
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = optimizer_steps - validation_owed
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    # a validation that was begun and not ended is run again, from its first batch
    _set_progress(validation, ready=int(validation_owed), started=int(validation_owed), processed=0, completed=0)
    validation["is_last_batch"] = False


def _set_progress(progress: dict[str, Any], **counters: int) -> None:
    progress["total"].update(counters)
    progress["current"].update(counters)

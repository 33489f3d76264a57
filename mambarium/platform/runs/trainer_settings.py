"""What Lightning's options mean in a run that resumes exactly, and what makes it so."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from mambarium.errors import InputError
from mambarium.platform.runs.averaging import AverageBeforeItsStart
from mambarium.platform.runs.callbacks import CallbackCheck
from mambarium.platform.runs.checkpoints import RunCheckpoint
from mambarium.platform.runs.metrics_file import MetricsFile
from mambarium.platform.runs.finite_loss import FiniteLoss
from mambarium.platform.position import Position
from mambarium.platform.runs.tensorboard import RunTensorBoard
from mambarium.platform.runs.validation_schedule import ValidationSchedule
from mambarium.tasks.objective import PrimaryMetric

INSTEAD = {
    **dict.fromkeys(
        ("max_epochs", "min_epochs", "limit_train_batches"), "a run's length is data.passes or trainer.max_steps"
    ),
    "check_val_every_n_epoch": "trainer.val_check_interval says it in steps (500) or passes (2.0)",
    "reload_dataloaders_every_n_epochs": "the data is one stream over all passes; leave it out",
    "overfit_batches": "give a small data set and data.passes",
    "fast_dev_run": "short runs: trainer.max_steps",
    "num_sanity_val_steps": "a short trainer.val_check_interval finds errors in validation as early",
    "use_distributed_sampler": "data modules share batches among processes themselves; leave it out",
    "enable_checkpointing": "checkpoints/last.ckpt and best.ckpt are always written; leave it out",
}
"""Options of Lightning's Trainer that are refused, and what to use instead."""


def exact_trainer_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Translate Trainer options into those of one long step-based epoch; refuse what has no meaning there.

    - `max_epochs=1`: all passes are one stream of batches for Lightning, so its epoch counters never matter.
      The stream's length (`data.passes` or `trainer.max_steps`) ends the run. Metrics must therefore be
      logged per step or per validation; a mean over the training "epoch" would be one over the whole run, and
      checkpoints don't keep it.
    - `val_check_interval`: an int counts optimiser steps, a float passes (1.0, the default: once per pass).
      There is always a validation after the last step. ValidationSchedule takes the value; Lightning is told
      before each batch, hence the 1 here.
    - `check_val_every_n_epoch=None`: validation goes by batches alone.
    - `num_sanity_val_steps=0`, `use_distributed_sampler=False`, `enable_checkpointing=False`: done elsewhere.
    - Schedulers of learning rates need `interval: step`; "epoch" would come once, at the end, and is refused.
    - `limit_val_batches`, `accumulate_grad_batches`, `log_every_n_steps`, `gradient_clip_val` mean what they
      always do.

    Args:
        given: The user's Trainer options; those at Lightning's default count as not given.

    Raises:
        InputError: If one of the options in `INSTEAD` was given.
    """
    parameters = inspect.signature(Trainer.__init__).parameters
    for name, instead in INSTEAD.items():
        if given.get(name) not in (None, parameters[name].default, _OURS.get(name)):
            raise InputError(f"trainer.{name} can't be set here: {instead}")
    return {**given, **_OURS}


_OURS: dict[str, Any] = {
    "max_epochs": 1,
    "min_epochs": None,
    "check_val_every_n_epoch": None,
    "val_check_interval": 1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
}


def exact_callbacks(
    checkpoint_folder: Path,
    seed: int,
    primary_metric: PrimaryMetric | None,
    val_check_interval: int | float | None = None,
    every_steps: int | None = None,
) -> list[Callback]:
    """Return the callbacks of exact resume, in the order they need; put them before all others.

    The first is the Position. Arguments are those of `RunCheckpoint` and the user's `trainer.val_check_interval`; None
    is 1.0, once per pass.
    """
    return [
        Position(seed),
        ValidationSchedule(1.0 if val_check_interval is None else val_check_interval),
        RunCheckpoint(checkpoint_folder, primary_metric, every_steps),
        FiniteLoss(),
        AverageBeforeItsStart(),
        CallbackCheck(),
    ]


def exact_loggers(run_folder: Path, position: Position) -> list[Logger]:
    """Return the run's loggers: `metrics.csv` and `tensorboard/`, with the Position among the callbacks."""
    return [
        MetricsFile(run_folder / "metrics.csv", position),
        RunTensorBoard(run_folder / "tensorboard", position),
    ]

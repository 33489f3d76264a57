"""Trainer options in a run that resumes exactly."""

import inspect

import pytest
from lightning.pytorch import Trainer

from mambarium.errors import InputError
from mambarium.platform.position import Position
from mambarium.platform.runs.trainer_settings import INSTEAD, exact_trainer_settings
from mambarium.platform.runs.validation_schedule import ValidationSchedule

DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Trainer.__init__).parameters.items()}
del DEFAULTS["self"]


def test_defaults_pass_and_the_rest_is_kept():
    settings = exact_trainer_settings({**DEFAULTS, "max_steps": 5, "accumulate_grad_batches": 2})
    assert (settings["max_steps"], settings["accumulate_grad_batches"], settings["max_epochs"]) == (5, 2, 1)
    Trainer(**{**settings, "logger": False, "accelerator": "cpu"})


@pytest.mark.parametrize("name", INSTEAD)
def test_options_that_count_epochs_are_refused(name):
    value = {"overfit_batches": 2, "limit_train_batches": 0.5, "enable_checkpointing": True}.get(name, 3)
    with pytest.raises(InputError, match=f"trainer.{name} can't be set here: "):
        exact_trainer_settings({**DEFAULTS, name: value})


@pytest.mark.parametrize("every", [0, -1, 0.0, True, "00:15:00"])
def test_bad_validation_intervals(every):
    with pytest.raises(InputError, match="number of steps"):
        ValidationSchedule(every)


def test_batches_dealt_before_the_checkpoint_was_restored():
    """Strategies that restore late would otherwise train on the wrong samples, silently."""
    position = Position(0)
    position.finished_batches, position.dealt_from = 5, 0
    with pytest.raises(InputError, match="before the checkpoint was restored"):
        position.on_train_batch_start(None, None, None, 0)


def test_position_is_missed():
    with pytest.raises(InputError, match=r"add Position\(seed\)"):
        Position.of(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))

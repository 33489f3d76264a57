"""A checkpoint that `fit` wrote, and what it says of the model it holds: its configuration and what its data was."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.checkpoint_choice import check_fit, stored_config
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.trust import check_named_classes

KEPT_TRAINER_OPTIONS = ("precision",)
"""What evaluation takes over of the Trainer's options: the rest is about training, or about the machine."""


class TrainedModel:
    """The content of a checkpoint and where it lies.

    Args:
        path: The file.
        content: What it holds, verified.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @cached_property
    def run_config(self) -> dict[str, Any]:
        """The configuration that the model was trained with, empty if the checkpoint has none.

        Raises:
            InputError: If it is not one.
        """
        return stored_config(self.content, self.path)

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
        described = {
            "seed_everything": self.run_config.get("seed_everything", 0),
            "model": self.run_config["model"],
            "data": self.run_config["data"],
            "trainer": {
                key: value
                for key, value in (trainer if isinstance(trainer, dict) else {}).items()
                if key in KEPT_TRAINER_OPTIONS
            },
        }
        check_named_classes(described, str(self.path), trusted)
        return described

    @property
    def global_step(self) -> int:
        """Optimiser steps that the model was trained for; 0 if the checkpoint doesn't say it."""
        step = self.content.get("global_step")
        return step if isinstance(step, int) else 0

    def check_fit(self, model: nn.Module) -> None:
        """Refuse a checkpoint of another model.

        Raises:
            InputError: With the first parameter that differs.
        """
        check_fit(self.content, model, self.path)

    def data_state(self, data_class: type[ExactDataModule]) -> dict[str, Any] | None:
        """Return what a data module of this class knew of its data, as Lightning keeps it; None if nothing is kept."""
        state = self.content.get(data_class.__qualname__)
        return state if isinstance(state, dict) else None

"""A task and its data module built from a configuration; what the one must know of the other is passed on."""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

import mambarium.backbones
import mambarium.platform.data
import mambarium.tasks  # noqa: F401  (imported so that YAML can name their classes by short names)
from mambarium.backbones.contract import Backbone
from mambarium.errors import InputError
from mambarium.platform.cli.boundary import one_line, root_of
from mambarium.platform.cli.configuration.allowed_imports import check_classes
from mambarium.platform.cli.configuration.model_size import make_backbone
from mambarium.platform.cli.configuration.parser import StrictParser
from mambarium.platform.cli.configuration.trained_model import TrainedModel
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.tasks.task import Task

LINKED_FACTS = ("num_classes", "class_names", "class_frequencies", "vocab_size")
"""What a task's constructor takes from the data module's attributes."""
LINKED_ARGUMENTS = [f"model.{fact}" for fact in LINKED_FACTS]


def link_data_to_model(parser: LightningArgumentParser) -> None:
    """Have a parser pass on what a task must know of its data."""
    for fact in LINKED_FACTS:
        parser.link_arguments(f"data.{fact}", f"model.init_args.{fact}", apply_on="instantiate")


def build_task(trained: TrainedModel, description: dict[str, Any], device: str = "cpu") -> Task:
    """Return the task that a checkpoint holds, with its weights; on the meta device, to see whether the weights fit.

    Args:
        trained: The checkpoint.
        description: As `TrainedModel.description` gives it.
        device: Where to build it: cpu or meta.

    Raises:
        InputError: If the description doesn't build a task, or the weights aren't that task's.
    """
    parser = StrictParser()
    parser.add_subclass_arguments(Task, "model", required=True)
    parser.add_subclass_arguments(ExactDataModule, "data", required=True)
    link_data_to_model(parser)
    try:
        parsed = parser.parse_object({key: description[key] for key in ("model", "data")})
        check_classes(parsed.as_dict(), LINKED_ARGUMENTS)
        with torch.device(device):
            task: Task = instantiated(parser, parsed, trained).model
    # Constructors raise errors of many kinds on what a file may say.
    except Exception as error:
        raise InputError(f"{trained.path}: its model can't be built ({one_line(root_of(error))})") from error
    trained.check_fit(task)
    if device != "meta":
        task.load_state_dict(trained.content["state_dict"])
    return task


def instantiated(parser: LightningArgumentParser, parsed: Namespace, trained: TrainedModel | None) -> Namespace:
    """Return the objects of a parsed configuration, the data module knowing what a checkpoint knows of its data.

    Raises:
        InputError: If a constructor refuses its arguments, inside the errors that jsonargparse makes of it.
    """

    def make_data(data_class: type[ExactDataModule], *args: Any, **kwargs: Any) -> ExactDataModule:
        data = data_class(*args, **kwargs)
        if trained is not None and (state := trained.data_state(data_class)) is not None:
            data.load_state_dict(state)
        return data

    makers = [(make_data, ExactDataModule, True), (make_backbone, Backbone, True)]
    return parser.instantiate(parsed, instantiators=makers)

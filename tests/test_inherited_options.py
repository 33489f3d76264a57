"""Options that tasks and data modules take over from base classes, as the parser and type checkers see them."""

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonargparse import ArgumentParser
from PIL import Image

import mambarium.platform.data
import mambarium.tasks
from mambarium.platform.data import ExactDataModule, ImageFolder
from mambarium.tasks.task import Task

MODULES = [
    found
    for name in mambarium.platform.data.__all__
    if issubclass(found := getattr(mambarium.platform.data, name), ExactDataModule) and found is not ExactDataModule
]
TASKS = [
    found
    for name in mambarium.tasks.__all__
    if isinstance(found := getattr(mambarium.tasks, name), type) and issubclass(found, Task)
]


def parsed_options(made: type) -> dict[str, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(made, "made")
    actions = {action.dest.removeprefix("made."): action for action in parser._actions if "made." in action.dest}
    return {name: action for name, action in actions.items() if not name.endswith(".help")}


@pytest.mark.parametrize("made", [*MODULES, *TASKS], ids=lambda made: made.__name__)
def test_type_checkers_are_told_what_the_parser_takes(made: type) -> None:
    hints = get_type_hints(made.__init__, include_extras=True)  # type: ignore[misc]  # of this very class
    own = {name for name in inspect.signature(made).parameters if name != "options"}
    told = {name: hints[name] for name in own} | get_type_hints(get_args(hints["options"])[1])
    options = parsed_options(made)
    assert {name: option._typehint or option.type for name, option in options.items()} == told
    assert all(option.help for option in options.values())
    required = {name for name, given in inspect.signature(made).parameters.items() if given.default is given.empty}
    assert {name for name, option in options.items() if option.required} == required - {"options"}


def test_a_task_s_configuration_names_every_option() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    model = {"class_path": "ImageClassification", "init_args": {"backbone": "MambaOut", "num_classes": 2}}
    shared = {"optimizer": None, "schedule": None, "pretrained": None, "layer_decay": None, "frozen_stages": 0}
    assert parser.parse_object({"model": model}).model.init_args.as_dict().items() >= shared.items()


class OwnFolder(ImageFolder):
    """A user's data module, its arguments written out.

    Args:
        path: The folder.
        batch_size: Samples in a batch.
        seed: Seed.
    """

    def __init__(self, path: str, batch_size: int = 2, seed: int = 0) -> None:
        super().__init__(path=path, image_size=8, val_fraction=0.5, mean=(0, 0, 0), batch_size=batch_size, seed=seed)


def test_a_subclass_may_write_its_arguments_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{index}.png")
    assert parsed_options(OwnFolder).keys() == {"path", "batch_size", "seed"}
    batch = next(iter(OwnFolder(str(tmp_path)).val_dataloader()))
    assert batch["image"].shape == (2, 3, 8, 8)


def test_what_no_base_class_takes_is_refused() -> None:
    with pytest.raises(TypeError, match="bach_size"):
        ImageFolder("folder", bach_size=3)  # type: ignore[call-arg]  # a slip

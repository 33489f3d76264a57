"""Options that data modules take over from base classes: seen by the parser, by type checkers and by subclasses."""

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonargparse import ArgumentParser
from PIL import Image

import mambarium.platform.data
from mambarium.platform.data import ExactDataModule, ImageFolder

MODULES = [
    found
    for name in mambarium.platform.data.__all__
    if issubclass(found := getattr(mambarium.platform.data, name), ExactDataModule) and found is not ExactDataModule
]


def parsed_options(data_class: type) -> dict[str, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(data_class, "data")
    actions = {action.dest.removeprefix("data."): action for action in parser._actions if "data." in action.dest}
    return {name: action for name, action in actions.items() if not name.endswith(".help")}


@pytest.mark.parametrize("data_class", MODULES, ids=lambda data_class: data_class.__name__)
def test_type_checkers_are_told_what_the_parser_takes(data_class: type) -> None:
    hints = get_type_hints(data_class.__init__, include_extras=True)  # type: ignore[misc]  # of this very class
    own = {name for name in inspect.signature(data_class).parameters if name != "options"}
    told = {name: hints[name] for name in own} | get_type_hints(get_args(hints["options"])[1])
    options = parsed_options(data_class)
    assert {name: option._typehint or option.type for name, option in options.items()} == told
    assert all(option.help for option in options.values())


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

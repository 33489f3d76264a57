"""Configuration files that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mambarium.errors import InputError


def configs_folder() -> Path:
    """Where the shipped configurations lie: inside the installed package, or beside it in a source folder."""
    installed = Path(str(files("mambarium"))) / "configs"
    return installed if installed.is_dir() else installed.parents[1] / "configs"


def find_config(name: str) -> Path:
    """Return the file of a configuration: a path, or a shipped name such as `classification/digits_vim`.

    Raises:
        InputError: If there is no such file.
    """
    if Path(name).is_file():
        return Path(name)
    folder = configs_folder()
    relative = name.removeprefix("configs/").removesuffix(".yaml")
    if (shipped := folder / f"{relative}.yaml").is_file():
        return shipped
    from mambarium.platform.suggestions import suggestion

    names = [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("*.yaml"))]
    raise InputError(f"{name}: no such file, nor a shipped configuration{suggestion(relative, names)}")

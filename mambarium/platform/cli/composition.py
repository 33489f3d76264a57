"""Putting a configuration together from files and options, before the parser sees it.

jsonargparse merges a class's arguments into those of the class it replaces wherever names agree, so a backbone given on
the command line would silently inherit settings of the one in the file. Here a class given later replaces the earlier
one whole; only arguments of the same class are merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mambarium.errors import InputError
from mambarium.platform.cli.shipped import find_config
from mambarium.platform.yaml_files import resolve_yaml

CONFIG_OPTIONS = ("--config", "-c")


class Composition(NamedTuple):
    """A command line after composition.

    Attributes:
        arguments: The options for the parser, with one `--config` that holds the composed YAML text.
        files: The configuration files that were read.
    """

    arguments: list[str]
    files: list[Path]


def compose(arguments: list[str]) -> Composition:
    """Read the files of all `--config` options and fold options that give a class into them.

    Args:
        arguments: Options as typed.

    Raises:
        InputError: If a file is missing or not a YAML mapping.
    """
    files: list[Path] = []
    config: dict[str, Any] = {}
    remaining: list[str] = []
    for option, value in paired(arguments):
        if option in CONFIG_OPTIONS and value is not None:
            files.append(find_config(value))
            config = merged(config, read_mapping(files[-1]))
        elif value is not None and names_a_class(option, value, config):
            set_class(config, option.removeprefix("--").split("."), value)
        elif value is not None:
            remaining.append(f"{option}={value}")
        else:
            remaining.append(option)
    if config:
        remaining = ["--config", yaml.safe_dump(config, sort_keys=False), *remaining]
    return Composition(remaining, files)


def paired(arguments: list[str]) -> list[tuple[str, str | None]]:
    """Options with their values, whether written `--key value` or `--key=value`; None for an option without one."""
    pairs: list[tuple[str, str | None]] = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("-"):
            pairs.append((option, None))
        elif "=" in option:
            key, value = option.split("=", 1)
            pairs.append((key, value))
        elif rest and (not rest[0].startswith("-") or is_number(rest[0])):
            pairs.append((option, rest.pop(0)))
        else:
            pairs.append((option, None))
    return pairs


def is_number(text: str) -> bool:
    """Whether a value that starts with a minus sign is a number and no option."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file's content with the files it names in place.

    Raises:
        InputError: If it is no mapping.
    """
    content = resolve_yaml(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected 'key: value' lines, found {'nothing' if content is None else type(content).__name__}"
        )
    return content


def merged(old: Any, new: Any) -> Any:
    """Two configurations, the new one's values first; a class with another `class_path` replaces the old one whole."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if "class_path" in old and "class_path" in new and old["class_path"] != new["class_path"]:
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def names_a_class(option: str, value: str, config: dict[str, Any]) -> bool:
    """Whether an option gives a class where the configuration has one, or gives a class by a YAML file."""
    if not option.startswith(("--model", "--data", "--trainer")):
        return False
    if value.endswith((".yaml", ".yml")):
        return True
    return isinstance(get(config, option.removeprefix("--").split(".")), dict)


def get(config: Any, keys: list[str]) -> Any:
    """The value under dotted keys, `init_args` left out as on the command line; None if there is none."""
    for key in keys:
        if isinstance(config, dict) and "class_path" in config and key not in ("class_path", "init_args"):
            config = config.get("init_args")
        config = config.get(key) if isinstance(config, dict) else None
    return config


def set_class(config: dict[str, Any], keys: list[str], value: str) -> None:
    """Put a class, given by name or by a YAML file, in the place of what was there.

    Raises:
        InputError: If the file is missing or no mapping.
    """
    if value.endswith((".yaml", ".yml")):
        path = Path(value)
        if not path.is_file():
            raise InputError(f"--{'.'.join(keys)} {value}: no such file")
        new: dict[str, Any] = read_mapping(path)
    else:
        new = {"class_path": value}
    parent: dict[str, Any] = config
    for key in keys[:-1]:
        parent = parent.setdefault(key, {})
        if "class_path" in parent:
            parent = parent.setdefault("init_args", {})
    old = parent.get(keys[-1])
    same = (
        isinstance(old, dict)
        and old.get("class_path", "").rsplit(".", 1)[-1] == new.get("class_path", "").rsplit(".", 1)[-1]
    )
    parent[keys[-1]] = merged(old, new) if same and not value.endswith((".yaml", ".yml")) else new

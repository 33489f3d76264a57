"""Putting a configuration together from files and options, before the parser sees it.

jsonargparse merges a class's arguments into those of the class it replaces wherever names agree, so a backbone given on
the command line would silently inherit settings of the one in the file. Here a class given later replaces the earlier
one whole; only arguments of the same class are merged.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.allowed_imports import packages_named
from mambarium.platform.cli.configuration.shipped_configs import find_config
from mambarium.platform.yaml_files import YAML_ENDINGS, mentions_class, parse_yaml, resolve_yaml

SECTIONS = ("model", "data", "trainer")

FROM_VARIANT = "mambarium.backbones.from_variant"
"""What configurations of earlier versions call a published backbone, with its name in `init_args`."""


class Composition(NamedTuple):
    """A command line after composition.

    Attributes:
        config: What files say and options that give a class.
        options: The other options.
        files: The configuration files that were read.
        packages: The packages that files and options name classes of.
    """

    config: dict[str, Any]
    options: list[str]
    files: list[Path]
    packages: set[str]

    @property
    def arguments(self) -> list[str]:
        """All of it for the parser, as text: an object it would check before the options complete it."""
        return (
            ["--config", yaml.safe_dump(self.config, sort_keys=False), *self.options] if self.config else self.options
        )


def compose(arguments: list[str], base: dict[str, Any] | None = None) -> Composition:
    """Read the files of all `--config` options and fold options that give a class into them.

    Args:
        arguments: Options as typed.
        base: The configuration of a checkpoint, which files and options change; none if not given.

    Raises:
        InputError: If a file is missing or not a YAML mapping, or an option's value is no YAML or has no place there.
    """
    options = paired(arguments)
    files = [find_config(value) for option, value in options if option == "--config" and value is not None]
    config: dict[str, Any] = {}
    for file in files:
        config = merged(config, read_mapping(file))
    packages = packages_named(config, (value for option, value in options if option != "--config"))
    config = merged(base or {}, config)
    remaining: list[str] = []
    for option, value in options:
        keys = option.removeprefix("--").split(".")
        if value is None:
            remaining.append(option)
        elif option != "--config":
            new = class_value(option, value, get(config, keys)) if keys[0] in SECTIONS else None
            if new is None:
                remaining.append(f"{option}={value}")
            else:
                put(config, keys, new)
    return Composition(with_variants(config), remaining, files, packages)


def paired(arguments: list[str]) -> list[tuple[str, str | None]]:
    """Options with their values, however they are written; None for an option without one, `--config` for `-c`."""
    pairs: list[tuple[str, str | None]] = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if option.startswith("-c"):
            option = f"--config={option[2:].removeprefix('=')}" if len(option) > 2 else "--config"
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
    """Return a YAML file's content with the files it names in place.

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
    """Two configurations, the new one's values first; another class replaces the old one whole."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if "class_path" in old and "class_path" in new:
        if str(old["class_path"]).rsplit(".")[-1] != str(new["class_path"]).rsplit(".")[-1]:
            return new
        new = {**new, "class_path": max(old["class_path"], new["class_path"], key=len)}
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def with_variants(value: Any) -> Any:
    """Return a configuration with each published backbone's name replaced by its class and arguments.

    A name stands for a backbone, or as `class_path` with `init_args` that differ from the published ones. It is
    replaced after composition, so that another name given later replaces the earlier one whole.
    """
    # Imports torch, which a command that only reads options has no need of.
    from mambarium.backbones.variants import VARIANTS, variant_config

    if isinstance(value, list):
        return [with_variants(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {
        key: {"class_path": item} if key == "backbone" and isinstance(item, str) and item in VARIANTS else item
        for key, item in value.items()
    }
    config = {key: with_variants(item) for key, item in named.items()}
    arguments = config.get("init_args") or {}
    name = config.get("class_path")
    if name == FROM_VARIANT and isinstance(arguments, dict):
        name = arguments.get("name")
        arguments = {key: item for key, item in arguments.items() if key != "name" and item is not None}
    if not isinstance(name, str) or name not in VARIANTS or not isinstance(arguments, dict):
        return config
    published = variant_config(name)
    return {**config, **published, "init_args": {**published["init_args"], **arguments}}


def class_value(option: str, value: str, old: Any) -> dict[str, Any] | None:
    """Return the class that an option's value gives, merged into what was there; None if the value gives no class.

    A YAML file replaces what was there. A mapping with `class_path`, or a class's name where a class is expected, is
    merged if the class stays the same. Where none is expected, a file that describes no class is data.

    Raises:
        InputError: If a YAML file is missing, or the file or mapping of a class is no YAML mapping.
    """
    expected = (
        option in ("--model", "--data")
        or option.endswith(".backbone")
        or (isinstance(old, dict) and "class_path" in old)
    )
    if value.endswith(YAML_ENDINGS):
        is_pattern = any(sign in value for sign in "*?[")  # of files of data
        if not expected and (is_pattern or not mentions_class(find_config(value))):
            return None
        content = (read_mapping if expected else resolve_yaml)(find_config(value))
        return content if isinstance(content, dict) and "class_path" in content else None
    parsed = parse_yaml(value, option) if value.lstrip().startswith("{") else value
    if isinstance(parsed, dict) and "class_path" in parsed:
        return merged(old, parsed)
    if isinstance(parsed, str) and expected and value not in ("null", "~", ""):
        return merged(old, {"class_path": parsed})
    return None


def get(config: Any, keys: list[str]) -> Any:
    """Return the value under dotted keys, `init_args` left out as on the command line; None if there is none."""
    for key in keys:
        if isinstance(config, dict) and "class_path" in config and key not in ("class_path", "init_args"):
            config = config.get("init_args")
        config = config.get(key) if isinstance(config, dict) else None
    return config


def put(config: dict[str, Any], keys: list[str], value: dict[str, Any]) -> None:
    """Set the value under dotted keys, `init_args` left out or not, as on the command line.

    Raises:
        InputError: If one of the keys but the last holds something that has no keys.
    """
    for number, (key, following) in enumerate(pairwise(keys), start=1):
        config = section(config, key, keys[:number])
        if "class_path" in config and following not in ("class_path", "init_args"):
            config = section(config, "init_args", [*keys[:number], "init_args"])
    config[keys[-1]] = value


def section(config: dict[str, Any], key: str, place: list[str]) -> dict[str, Any]:
    """Return the mapping under a key, made of nothing or of a class's name if it isn't one yet.

    Raises:
        InputError: If something else is there.
    """
    found = config.get(key)
    if found is None:
        found = {}
    elif isinstance(found, str) and key != "init_args":
        found = {"class_path": found}
    if not isinstance(found, dict):
        raise InputError(f"{'.'.join(place)}: expected a class or 'key: value' lines, found {found!r}")
    config[key] = found
    return found

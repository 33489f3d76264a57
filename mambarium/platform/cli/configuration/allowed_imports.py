"""Which code a configuration may name: classes of known packages and of the modules that the user names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import set_parsing_settings

from mambarium.errors import InputError
from mambarium.trust import IMPORT_PATH, TRUSTED_PACKAGES, import_paths, named


def packages_named(config: Any, options: Iterable[str | None]) -> set[str]:
    """Return the top-level packages that the content of a user's files and options' values name, but Python's own."""
    texts = [path for _, path in import_paths(config)] + [text for text in options if text]
    packages = {found[0].split(".")[0] for text in texts for found in re.finditer(IMPORT_PATH, text)}
    return packages - set(sys.stdlib_module_names) - {"jsonargparse"}


def allow_imports(packages: Iterable[str]) -> None:
    """Have the parser import from the known packages and from those that the user named, and from nowhere else."""
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*TRUSTED_PACKAGES, *packages])


def check_classes(config: Any, linked: Iterable[str] = ()) -> None:
    """Refuse a parsed configuration whose `class_path` is a function, which the parser would call for a class's object.

    The parser also takes a null for any argument.

    Args:
        config: Nested mappings and lists.
        linked: Dotted keys of the arguments that are filled in later.

    Raises:
        InputError: If there is one, or an argument is null that can't be.
    """
    for place, path, arguments in _classes(config):
        found = named(path)
        if not isinstance(found, type):
            raise InputError(f"{place}.class_path: {path} is no class; name a class")
        nulls = [name for name, value in arguments.items() if value is None and f"{place}.{name}" not in linked]
        kinds = _argument_types(found) if nulls else {}
        for name in nulls:
            if not _takes_none(kinds.get(name, Any)):
                kind = getattr(kinds[name], "__name__", kinds[name])
                raise InputError(f"{place}.{name}: expected {kind}, found null; give a value or leave the line out")


def _classes(config: Any, place: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every class in nested mappings and lists: its dotted key, its path and its arguments."""
    if isinstance(config, dict):
        if isinstance(path := config.get("class_path"), str):
            yield place.removeprefix("."), path, config.get("init_args") or {}
        for key, item in config.items():
            yield from _classes(item, place if key == "init_args" else f"{place}.{key}")
    elif isinstance(config, list | tuple):
        for index, item in enumerate(config):
            yield from _classes(item, f"{place}[{index}]")


def _argument_types(made: type) -> dict[str, Any]:
    """Return the types of a constructor's arguments by name, none of those that name what only checkers import.

    Those of its base classes are among them, which it may pass on to these.
    """
    kinds: dict[str, Any] = {}
    for of_class in reversed(made.__mro__):
        with suppress(NameError):
            kinds |= get_type_hints(of_class.__init__)  # type: ignore[misc]  # of this very class
    return kinds


def _takes_none(kind: Any) -> bool:
    union = get_origin(kind) in (Union, UnionType)
    return kind in (Any, None, NoneType, object) or (union and any(_takes_none(part) for part in get_args(kind)))

"""Which code a configuration may name: classes of known packages and of the modules that the user names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from jsonargparse import set_parsing_settings

from mambarium.errors import InputError
from mambarium.trust import IMPORT_PATH, TRUSTED_PACKAGES, import_paths, named


def packages_named(config: Any, options: Iterable[str | None]) -> set[str]:
    """The top-level packages that a user's configuration files and options name, Python's own left out.

    Args:
        config: The content of the files.
        options: The options' values.
    """
    texts = [path for _, path in import_paths(config)] + [text for text in options if text]
    packages = {found[0].split(".")[0] for text in texts for found in re.finditer(IMPORT_PATH, text)}
    return packages - set(sys.stdlib_module_names) - {"jsonargparse"}


def allow_imports(packages: Iterable[str]) -> None:
    """Have the parser import from the known packages and from these, and from nowhere else.

    Args:
        packages: Packages or modules that the user named.
    """
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*TRUSTED_PACKAGES, *packages])


def check_classes(config: Any) -> None:
    """Refuse a parsed configuration whose `class_path` is a function, which the parser would call for a class's object.

    Raises:
        InputError: If there is one.
    """
    for place, path in import_paths(config):
        if place.endswith("class_path") and not isinstance(named(path), type):
            raise InputError(f"{place}: {path} is no class; name a class")

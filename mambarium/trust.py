"""Which code plain data from a file may name.

A checkpoint says by name which classes its model is made of, and its optimiser. Whoever builds them imports what is
named, and importing runs code: so a file names classes of the packages below, or of modules that the user trusts.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mambarium.errors import InputError

TRUSTED_PACKAGES = ("mambarium", "torch", "torchvision", "torchmetrics", "lightning", "timm")

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def import_paths(description: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a description that a parser could take for code, as (dotted key, text).

    Args:
        description: Nested mappings and lists of plain values.
        place: The dotted key of the description itself.
    """
    if isinstance(description, list | tuple):
        for index, item in enumerate(description):
            yield from import_paths(item, f"{place}[{index}]")
    elif isinstance(description, dict):
        for key, item in description.items():
            yield from import_paths(item, f"{place}.{key}".removeprefix("."))
    elif isinstance(description, str) and (IMPORT_PATH.fullmatch(description) or place.endswith("class_path")):
        yield place, description


def check_named_classes(description: Any, source: str, trusted: Iterable[str] = (), *, all_texts: bool = False) -> None:
    """Refuse a description that names code other than classes of `TRUSTED_PACKAGES` or of trusted modules.

    Nothing outside these is imported to find out. A text that is no `class_path` may be anything, a file's name too;
    where it is code of these packages, it must be a class: a function could be called.

    Args:
        description: Nested mappings and lists, as a file gives them.
        source: The file, for messages.
        trusted: Modules that the user trusts, whole.
        all_texts: Whether every text in the form of an import path must name such a class: what parses the description
            imports any.

    Raises:
        InputError: If it names anything else.
    """
    allowed = (*TRUSTED_PACKAGES, *trusted)
    for place, path in import_paths(description):
        must_be_class = all_texts or place.endswith("class_path")
        if any(path == package or path.startswith(f"{package}.") for package in allowed):
            found = named(path)
            if must_be_class or callable(found):
                if isinstance(found, type):
                    continue
                raise InputError(f"{source} names {path} ({place}), which is no class: nothing was called")
        elif must_be_class:
            raise InputError(
                f"{source} names {path} ({place}), which is not of {', '.join(TRUSTED_PACKAGES)}; it was not imported: "
                f"if that code is yours, give --trust {path.split('.')[0]}"
            )


def named(path: str) -> Any:
    """Return what an import path leads to, its module imported; None if to nothing."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name, None)
        return found
    return None

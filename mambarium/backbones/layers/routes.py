"""Routes along which a sequence model reads an image: their names, and their index maps in compiled graphs."""

import re
from collections.abc import Callable
from typing import TypeVar

from mambarium.errors import InputError
from mambarium.kernels.grid.routes import Route

Function = TypeVar("Function", bound=Callable)

_NAME = re.compile(r"(rows|columns|window_([1-9]\d*))(_backwards)?")


def route_named(name: str) -> Route:
    """Return the route of a name; InputError if there is none.

    Names are "rows" (row by row), "columns" (column by column) or "window_7" (window by window of 7x7 positions, each
    row by row; any size), all three also with "_backwards" after them.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"there is no route {name!r}; give rows, columns or window_N with a size N, with or without _backwards"
        )
    kind, window_size, backwards = match.groups()
    return Route(int(window_size or 0), by_columns=kind == "columns", backwards=backwards is not None)

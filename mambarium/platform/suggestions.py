"""The nearest known name to a mistyped one."""

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for the nearest known name, or nothing."""
    longer = [key for key in known if not name.startswith(key)]
    near = difflib.get_close_matches(name, longer, n=1, cutoff=0.65)
    return f"; did you mean '{near[0]}'?" if near else ""

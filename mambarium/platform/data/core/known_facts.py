"""What a model has to know of the data it learnt from, kept in its checkpoints, and how data may disagree with it."""

from collections.abc import Sequence
from typing import Any

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import LISTED

Facts = dict[str, Any]
"""Plain strings, numbers and lists by name, such as the names of the classes."""

SHOWN_PLACES = 3
"""Places in which longer lists differ that a message names."""


def disagreement(where: str, name: str, difference: str) -> InputError:
    """Make the error of data that is not what a checkpoint's model learnt from, of what differs and how."""
    return InputError(
        f"{where}: {name} of the data and of the checkpoint differ ({difference}); give the data that the model was "
        "trained on, or train another one under another --name"
    )


def described_difference(found: Any, restored: Any) -> str:
    """Show both values, or of long lists their lengths and the first places in which they differ."""
    if not isinstance(found, list) or not isinstance(restored, list):
        return f"data: {_text(found)}; checkpoint: {_text(restored)}"
    if max(len(found), len(restored)) <= LISTED:
        return f"data: {', '.join(map(str, found))}; checkpoint: {', '.join(map(str, restored))}"
    places = [
        place for place in range(max(len(found), len(restored))) if _entry(found, place) != _entry(restored, place)
    ]
    shown = ", ".join(
        f"number {place} is {_entry(found, place)} in the data and {_entry(restored, place)} in the checkpoint"
        for place in places[:SHOWN_PLACES]
    )
    return f"{len(found)} in the data, {len(restored)} in the checkpoint, {len(places)} places differ: {shown}"


def _entry(values: Sequence[Any], place: int) -> str:
    return repr(values[place]) if place < len(values) else "missing"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:LISTED])) + (", ..." if len(value) > LISTED else "")
    return "none" if value is None else str(value)

"""What annotation files say, checked in one place against typed records (msgspec's structs).

Numbers may be written as text, whole numbers as floats, booleans as 0 and 1; what no record asks for is passed over.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from reprlib import repr as shortened
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import SampleError

Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""A whole number of 64 bits."""

Side = Annotated[int, Meta(le=2**31 - 1)]
"""Pixels of an image's side; 0 and less, as tools write that don't know it: none is said."""

Coordinate = Annotated[float, Meta(gt=-(2.0**100), lt=2.0**100)]
"""A number that single precision holds, and no NaN."""

Area = Annotated[float, Meta(ge=0, lt=2.0**127)]
"""A number from 0 on that single precision holds, and no NaN."""

Flag = Annotated[int, Meta(ge=0, le=1)] | bool
"""Yes or no, also as a number."""

Name = Annotated[str, Meta(pattern=r"\S")]
"""A text that is not blank."""

Record = TypeVar("Record")


def read_json(file: Path, kind: type[Record]) -> Record:
    """Read a JSON file, in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark, as a struct or made of them.

    Raises:
        InputError: If it can't be read or is no JSON.
        SampleError: If it holds something else.
    """
    try:
        encoded = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); check data.path and the names below it"
        ) from error
    try:
        return msgspec.json.decode(encoded, type=kind, strict=False)
    except (msgspec.DecodeError, RecursionError):
        pass  # said below, or not at all: Python's parser knows other encodings and NaN, and finds values for messages
    try:
        content = json.loads(encoded, parse_constant=str)
        plain = msgspec.json.encode(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON file ({error})") from error
    try:
        return msgspec.json.decode(plain, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(error, content, str(file), "") from error


def as_record(content: Any, kind: Any, where: str, place: str = "") -> Any:
    """Check what was read from a file, and convert it to a struct or a type made of structs.

    For messages, `where` is the file or the row, and `place` where the content lies in it, such as
    `annotations[3].segmentation`; "": it is the whole.

    Raises:
        SampleError: If it is something else.
    """
    try:
        return msgspec.convert(content, kind, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _refusal(error, content, where, place) from error


def _refusal(error: Exception, content: Any, where: str, place: str) -> SampleError:
    message, _, path = str(error).partition(" - at `$")
    path = path.removesuffix("`")
    with suppress(LookupError, TypeError):  # of keys with dots and brackets; the whole is shown then
        for index, name in re.findall(r"\[(\d+)\]|\.([^.\[]+)", path):
            content = content[int(index)] if index else content[name]
    place = f"{place}{path}".removeprefix(".")
    said = f"{message[:1].lower()}{message[1:]}; found {shortened(content)}"
    return SampleError(f"{where}: {place}: {said}" if place else f"{where}: {said}")

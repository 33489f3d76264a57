"""TensorBoard's event files: how many events they hold, and cutting them after so many."""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "events.out.tfevents."
_HEADER = struct.Struct("<QI")
"""A record's length and the length's checksum; the record and its checksum, four bytes, follow."""


def event_files(folder: Path) -> dict[str, list[Path]]:
    """All event files below a folder, by their own folder's path below it, in the order in which TensorBoard reads them."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob(f"{PREFIX}*")):
        found.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    return found


def event_ends(path: Path, start: int = 0) -> Iterator[int]:
    """Yield where each whole event of a file ends, in bytes, from the start or from where one ends.

    The first event, which every file has, says the format's version and is not counted.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        position, is_version = start, start == 0
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            position += _HEADER.size + _HEADER.unpack(header)[0] + 4
            if position > size:
                return
            file.seek(position)
            if not is_version:
                yield position
            is_version = False


def cut_events(paths: list[Path], count: int) -> None:
    """Keep the first events of one folder's files and no others.

    The files, in their order, hold at least so many. What is kept comes first in TensorBoard's order, by name, also
    where the clock has gone back since.
    """
    kept: list[Path] = []
    for path in paths:
        ends = [end for _, end in zip(range(count), event_ends(path), strict=False)]
        if not ends:
            path.unlink()
            continue
        os.truncate(path, ends[-1])
        kept.append(path)
        count -= len(ends)
    if kept and kept[-1].name > f"{PREFIX}{int(time.time()):010d}":
        for index, path in enumerate(kept):
            rest = path.name.removeprefix(PREFIX).partition(".")[2]
            path.rename(path.with_name(f"{PREFIX}{index:010d}.{rest}"))

"""Files that are whole or absent, whenever a crash comes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from itertools import count
from pathlib import Path


@contextmanager
def replaced_atomically(target: Path, kept: Path | None = None) -> Iterator[BufferedRandom]:
    """Open a temporary file beside the target that takes the target's place when the block ends well.

    Args:
        target: The file to write or replace; its folder is made.
        kept: The name, in the same folder, under which the replaced file is kept, in place of an earlier one. A
            crash may leave the kept file without the new one, never neither.

    Yields:
        The temporary file, open for writing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(temporary, target, kept)
    finally:
        temporary.unlink(missing_ok=True)
    _force_folder_to_disk(target.parent)


def write_atomically(target: Path, text: str) -> None:
    """Write or replace a text file, UTF-8, so that a crash leaves either the old or the new content.

    Args:
        target: The file; its folder is made.
        text: Its content.
    """
    with replaced_atomically(target) as file:
        file.write(text.encode())


def duplicate_atomically(source: Path, target: Path, kept: Path | None = None) -> None:
    """Make the target a second name of the source's content, by a hard link where the file system has them.

    Args:
        source: An intact file that is never changed in place.
        target: A file in the same folder, replaced.
        kept: As in `replaced_atomically`.
    """
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            with source.open("rb") as reader, replaced_atomically(target, kept) as writer:
                shutil.copyfileobj(reader, writer)
            return
        _put_in_place(temporary, target, kept)
    finally:
        # rename(2) does nothing when both names already are one file
        temporary.unlink(missing_ok=True)
    _force_folder_to_disk(target.parent)


def name_aside(path: Path) -> Path:
    """Return the first free name of `last.damaged.ckpt`, `last.damaged-2.ckpt` and so on.

    Args:
        path: The file, `last.ckpt` for example.
    """
    names = (f"{path.stem}.damaged{f'-{number}' if number > 1 else ''}{path.suffix}" for number in count(1))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def set_aside(path: Path) -> None:
    """Rename a file or folder, where there is one, so that it is in nobody's way and yet kept.

    Args:
        path: What to rename to its `name_aside`.
    """
    if path.exists():
        path.rename(name_aside(path))


def remove_stale_temporaries(folder: Path) -> None:
    """Delete temporary files that a killed process left.

    Args:
        folder: The folder of checkpoints; no other process may be writing there.
    """
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, target: Path, kept: Path | None) -> None:
    if kept is not None and target.exists():
        os.replace(target, kept)
    os.replace(temporary, target)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


def _force_folder_to_disk(folder: Path) -> None:
    """Make a rename durable; only POSIX systems can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

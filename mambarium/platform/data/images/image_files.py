"""Image files in folders."""

import os
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.images.decoding import formats

FOLDER_LINKS = "links to folders that are read already"
"""What `PassedOver` counts them as."""

PassedOver = Counter[str]
"""How many files of each suffix, and how many links, were no images to read."""


@cache
def image_suffixes() -> frozenset[str]:
    """The endings of names that are taken for images: those of the formats that are read, in lower case."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def find_images(path: Path, tell: bool = False) -> list[Path]:
    """Lists the image files below a folder.

    Args:
        path: A folder, or one image file.
        tell: Whether a note says what was passed over.

    Returns:
        The files, in the order of their names; hidden files and folders are passed over.

    Raises:
        InputError: If there is no such folder or no image in it.
    """
    path = path.expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such folder of images")
    passed_over: PassedOver = Counter()
    found = walk_images(path, set(), passed_over)
    if tell:
        note_passed_over(path, passed_over)
    return found


def walk_images(path: Path, seen: set[str], passed_over: PassedOver) -> list[Path]:
    """Lists the image files below a folder, each folder once however many links lead to it.

    Args:
        path: The folder.
        seen: The folders that were read, as they lie without links; added to.
        passed_over: Counts what is no image; added to.

    Returns:
        The files, in the order of their names.

    Raises:
        InputError: If there is no image in it.
    """
    found = []
    for folder, subfolders, names in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            passed_over[FOLDER_LINKS] += 1
            subfolders.clear()
            continue
        seen.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in image_suffixes():
                found.append(Path(folder, name))
            else:
                passed_over[suffix or "without a suffix"] += 1
    if not found:
        others = f"; it has {described(passed_over)}" if passed_over else ""
        raise InputError(f"{path}: no images in this folder (looked for .png, .jpg and all that Pillow reads{others})")
    return sorted(found)


def note_passed_over(where: Path, passed_over: PassedOver) -> None:
    """Tells what was passed over, if anything.

    Args:
        where: The folder.
        passed_over: What was counted.
    """
    if passed_over:
        note(f"{where}: passed over {described(passed_over)}")


def described(passed_over: PassedOver) -> str:
    """Counts in words."""
    links = passed_over[FOLDER_LINKS]
    suffixes = [f"{suffix} {count}" for suffix, count in passed_over.most_common() if suffix != FOLDER_LINKS]
    files = passed_over.total() - links
    parts = [f"{files} files that are no images ({', '.join(suffixes[:5])}{', ...' if suffixes[5:] else ''})"] * bool(
        files
    )
    return " and ".join([*parts, *[f"{links} {FOLDER_LINKS}"] * bool(links)])


def composed(name: str) -> str:
    """A name in the composed form of Unicode; file systems keep names in either form, which look the same."""
    return unicodedata.normalize("NFC", name)


def readable(name: str) -> str:
    """A name as text: in the composed form, with codes in the place of bytes that are not UTF-8."""
    return composed(name.encode(errors="surrogateescape").decode(errors="backslashreplace"))


def in_either_form(file: Path) -> Path:
    """The file of a name, or that of the same name in the other form of Unicode if only that exists."""
    if not file.exists():
        for form in ("NFC", "NFD"):
            other = Path(unicodedata.normalize(form, str(file)))
            if other.exists():
                return other
    return file

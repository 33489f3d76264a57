"""Image files: found in folders, or named by lists and annotations."""

import os
import re
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

ELSEWHERE = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")
"""How a name begins that is not one of this file system: a drive of Windows, an address."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of names that are taken for images: those of the formats that are read, in lower case."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def find_images(path: Path, tell: bool = False) -> list[Path]:
    """List the image files below a folder, or one image file, in the order of their names.

    Hidden files and folders are passed over; `tell` has a note say what else was. Raises InputError if there is no such
    folder or no image in it.
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
    """List the image files below a folder in the order of their names, each folder once however many links lead to it.

    The folders that were read, as they lie without links, are added to `seen`, what is no image is counted in
    `passed_over`. Raises InputError if there is no image.
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
    """Tell what was passed over, if anything."""
    if passed_over:
        note(f"{where}: passed over {described(passed_over)}")


def described(passed_over: PassedOver) -> str:
    """Put counts in words."""
    links = passed_over[FOLDER_LINKS]
    suffixes = [f"{suffix} {count}" for suffix, count in passed_over.most_common() if suffix != FOLDER_LINKS]
    files = passed_over.total() - links
    parts = [f"{files} files that are no images ({', '.join(suffixes[:5])}{', ...' if suffixes[5:] else ''})"] * bool(
        files
    )
    return " and ".join([*parts, *[f"{links} {FOLDER_LINKS}"] * bool(links)])


def composed(name: str) -> str:
    """Return a name in the composed form of Unicode; file systems keep names in either form, which look the same."""
    return unicodedata.normalize("NFC", name)


def readable(name: str) -> str:
    """Return a name as text: in the composed form, with codes in the place of bytes that are not UTF-8."""
    return composed(name.encode(errors="surrogateescape").decode(errors="backslashreplace"))


def in_either_form(file: Path) -> Path:
    """Return the file of a name, or that of the same name in the other form of Unicode if only that exists."""
    if not file.exists():
        for form in ("NFC", "NFD"):
            other = Path(unicodedata.normalize(form, str(file)))
            if other.exists():
                return other
    return file


def contained(folder: Path, name: str, where: str) -> Path:
    """Return the file that a name in annotations means, which lies inside the data's folder.

    Names are taken with either kind of slash. Where a name repeats the end of the folder (`images/a.png` for the folder
    `set/images`), as some tools write it, and there is no such file, the file without the repetition is meant. Raises
    InputError if the name leads out of the folder; `where` says which file and record give it.
    """
    plain = name.replace("\\", "/")
    base = os.path.join(os.path.abspath(folder), "")
    file = os.path.normpath(os.path.join(base, plain))
    if ELSEWHERE.match(plain) or "\0" in plain or not os.path.join(file, "").startswith(base):
        raise InputError(
            f"{where} names the file {name!r}, which does not lie inside {folder}; give names relative to that folder"
        )
    parts = file[len(base) :].split(os.sep)
    for count in range(len(parts) - 1, 0, -1):
        shorter = os.path.join(base, *parts[count:])
        repeated = base.endswith(os.path.join(os.sep, *parts[:count], ""))
        if repeated and not os.path.exists(file) and os.path.isfile(shorter):
            parts = parts[count:]
            break
    return in_either_form(folder.joinpath(*parts))


def read_list(file: Path) -> list[str]:
    """Read a list of names, one a line; of a class's list, which gives -1, 0 or 1 after each name, the names alone.

    Raises InputError if there is no such list, or it is empty or not in UTF-8.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such list of images; check data.path and the names of the lists")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not text in UTF-8 ({error}): store it as such") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{file}: names no image")
    of_class = [re.fullmatch(r"(.*\S)\s+(?:-1|0|1)", name) for name in names]
    return [match[1] for match in of_class if match] if all(of_class) else names

"""Names of files that annotations give: they lead to files inside the data's folder and to nothing else."""

import os
import re
from pathlib import Path

from mambarium.errors import InputError
from mambarium.platform.data.image_files import in_either_form

ELSEWHERE = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")
"""How a name begins that is not one of this file system: a drive of Windows, an address."""


def contained(folder: Path, name: str, where: str) -> Path:
    """The file that a name in annotations means.

    Names are taken with either kind of slash. Where a name repeats the end of the folder (`images/a.png` for the folder
    `set/images`), as some tools write it, and there is no such file, the file without the repetition is meant.

    Args:
        folder: The folder that names are relative to.
        name: The name.
        where: The file and the record that give it, for messages.

    Raises:
        InputError: If the name leads out of the folder.
    """
    plain = name.replace("\\", "/")
    base = Path(os.path.normpath(folder.absolute()))
    file = Path(os.path.normpath(base / plain))
    if ELSEWHERE.match(plain) or "\0" in plain or not file.is_relative_to(base):
        raise InputError(
            f"{where} names the file {name!r}, which does not lie inside {folder}: give names relative to that folder"
        )
    parts = file.relative_to(base).parts
    for count in range(len(parts) - 1, 0, -1):
        shorter = base.joinpath(*parts[count:])
        if base.parts[-count:] == parts[:count] and not file.exists() and shorter.is_file():
            parts = shorter.relative_to(base).parts
            break
    return in_either_form(folder.joinpath(*parts))

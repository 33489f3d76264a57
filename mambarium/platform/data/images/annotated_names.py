"""Names of files that annotations give: they lead to files inside the data's folder and to nothing else."""

import os
import re
from pathlib import Path

from mambarium.errors import InputError
from mambarium.platform.data.images.image_files import in_either_form

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
    base = os.path.join(os.path.abspath(folder), "")
    file = os.path.normpath(os.path.join(base, plain))
    if ELSEWHERE.match(plain) or "\0" in plain or not os.path.join(file, "").startswith(base):
        raise InputError(
            f"{where} names the file {name!r}, which does not lie inside {folder}: give names relative to that folder"
        )
    parts = file[len(base) :].split(os.sep)
    for count in range(len(parts) - 1, 0, -1):
        shorter = os.path.join(base, *parts[count:])
        repeated = base.endswith(os.path.join(os.sep, *parts[:count], ""))
        if repeated and not os.path.exists(file) and os.path.isfile(shorter):
            parts = parts[count:]
            break
    return in_either_form(folder.joinpath(*parts))

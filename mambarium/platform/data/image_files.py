"""Image files in folders."""

import os
from pathlib import Path

from mambarium.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
"""Names of files that are taken for images."""


def find_images(path: Path) -> list[Path]:
    """Lists the image files below a folder.

    Args:
        path: A folder, or one image file.

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
    found = []
    for folder, subfolders, names in os.walk(path, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                found.append(Path(folder, name))
    if not found:
        raise InputError(f"{path}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(found)

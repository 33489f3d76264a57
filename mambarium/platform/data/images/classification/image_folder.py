"""Images in folders named after their classes."""

from collections import Counter
from functools import cached_property
from pathlib import Path

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.classification.labelled_images import ClassificationImages, ClassificationOptions
from mambarium.platform.data.images.classification.labelled_sources import LabelledImages, labelled_splits
from mambarium.platform.data.images.image_files import (
    PassedOver,
    composed,
    image_suffixes,
    note_passed_over,
    readable,
    walk_images,
)
from mambarium.platform.data.images.stored_images import ImageFiles

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The part of a set that a folder of each name, in upper or lower case, holds."""


class ImageFolder(ClassificationImages):
    """Images of a folder with sub-folders `train`, `val` and `test`, each with one sub-folder per class.

    Other usual names serve as well, in upper or lower case: training, valid, validation, dev, testing. Without any of
    them the class folders lie in `path` itself and are all training images. Without `val`, a fixed `val_fraction` of
    each class is held out of the training images (chosen by a hash of the file names); with `val_fraction` 0 the test
    images serve for validation too. Without `test`, the validation images are the test images. Images of any mode and
    format that Pillow reads are brought to RGB, turned as their EXIF data says; stacks of several pages are refused.

    Args:
        path: The folder.
        val_fraction: Part of each class to hold out where there is no `val` folder.
        options: Those of `ClassificationImages`.

    Raises:
        InputError: If a folder is missing or empty, or a class has no training images.
    """

    def __init__(self, path: str, val_fraction: float = 0.1, **options: Inherited[ClassificationOptions]) -> None:
        super().__init__(class_names=None, **options)
        self._path = Path(path).expanduser()
        self._val_fraction = val_fraction

    @property
    def where(self) -> str:
        return str(self._path)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return _find_split_folders(self._path)

    def read_class_names(self) -> list[str]:
        return list(_several_classes(self._folders["train"]))

    def read_splits(self) -> Splits[LabelledImages]:
        names = self.found_facts["class_names"]
        stored = {split: _labelled_files(folder, names) for split, folder in self._folders.items()}
        sources = {
            split: LabelledImages(ImageFiles(files, self._folders[split]), self.reader, labels)
            for split, (files, labels) in stored.items()
        }
        return labelled_splits(sources, self._val_fraction, key=lambda index: composed(stored["train"][0][index]))


def _labelled_files(folder: Path, class_names: list[str]) -> tuple[list[str], list[int]]:
    """List the images of one split's class folders, relative to the split's, and their classes."""
    folders = _class_folders(folder)
    unknown = sorted(folders.keys() - set(class_names))
    if unknown:
        raise InputError(
            f"{folders[unknown[0]]}: no training folder has this class name; the classes are {', '.join(class_names)}"
        )
    found: list[str] = []
    labels: list[int] = []
    seen: set[str] = set()
    passed_over: PassedOver = Counter()
    for label, class_name in enumerate(class_names):
        if class_name in folders:
            files = walk_images(folders[class_name], seen, passed_over)
            found += [str(file.relative_to(folder)) for file in files]
            labels += [label] * len(files)
    note_passed_over(folder, passed_over)
    return found, labels


def _find_split_folders(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder of images (data.path)")
    folders = _subfolders(path)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    others = [folder.name for folder in folders if folder not in splits]
    if others and not any(_subfolders(folder) for folder in splits):
        return {"train": path}  # classes: trains among other vehicles
    found: dict[str, Path] = {}
    for folder in splits:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in found:
            raise InputError(
                f"{path}: {found[split].name} and {folder.name} both name {split} images; move one of them away"
            )
        found[split] = folder
    if not found:
        return {"train": path}
    if "train" not in found:
        raise InputError(f"{path}: has a folder {splits[0].name} but no folder train")
    if others:
        note(f"{path}: passed over {', '.join(others)} beside {', '.join(folder.name for folder in splits)}")
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def _class_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each class, in the order of their names."""
    folders: dict[str, Path] = {}
    for subfolder in _subfolders(folder):
        name = readable(subfolder.name)
        if name in folders:
            raise InputError(f"{folder}: two folders are both called {name}, in two forms of Unicode: make them one")
        folders[name] = subfolder
    if not folders:
        inside = any(item.suffix.lower() in image_suffixes() for item in folder.iterdir())
        above = f" (it holds images itself: data.path is probably {folder.parent})" if inside else ""
        raise InputError(
            f"{folder}: no class folders in it; put the images of each class in a folder of its name{above}"
        )
    return dict(sorted(folders.items()))


def _several_classes(folder: Path) -> dict[str, Path]:
    """Return the folder of each class, where there are two or more."""
    folders = _class_folders(folder)
    if len(folders) == 1:
        ((name, only),) = folders.items()
        inside = [subfolder.name for subfolder in _subfolders(only)]
        listed = ", ".join(inside[:5]) + (", ..." if inside[5:] else "")
        way_out = f"it holds the folders {listed}, so data.path is probably {only}" if inside else "give two or more"
        raise InputError(f"{folder}: has the folder of one class alone, {name}; {way_out}")
    return folders

"""Labelled images of data sets that the `datasets` library opens by name."""

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.hub import DataFiles, HubDataSet, ImageColumn, Part
from mambarium.platform.data.core.samples import BrokenPolicy
from mambarium.platform.data.images.classification.labelled_images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassificationImages,
)
from mambarium.platform.data.images.classification.labelled_sources import ImageSplits, divided
from mambarium.platform.data.images.intensity import ImageReader


class HubImages(ClassificationImages):
    """Images of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: imagefolder` with `data_dir`, `name: parquet` with `data_files`. A split may be a
    slice, such as `train[:8000]`. Images of any mode and format that Pillow reads are brought to RGB, turned as
    their EXIF data says; stacks of several pages are refused.

    Args:
        name: The data set's name, for instance `uoft-cs/cifar10`, or a builder of the library, or a folder.
        image_size: Height and width of the images that the model sees.
        config: Which configuration of the data set, if it has several.
        data_dir: Folder of the files, for a builder.
        data_files: Files or patterns, alone or by split.
        train_split: The split to train on.
        val_split: The split to validate on; None: `val_fraction` of each class of the training split is held
            out (chosen by a hash of the row number), or the test split serves if `val_fraction` is 0.
        test_split: The split to test on; None: the validation images.
        val_fraction: Part of each class to hold out where there is no validation split.
        image_column: Column of the images.
        label_column: Column of the classes: class labels, whole numbers or names.
        train_transforms: torchvision v2 transforms of training images, which see uint8 tensors (3, height,
            width); None: shorter side to `image_size`, random crop, random horizontal flip.
        eval_transforms: torchvision v2 transforms of validation, test and prediction images; None: shorter
            side to `image_size`, centre crop.
        mean: Subtracted per channel, on a scale of 0 to 1; ImageNet's unless given.
        std: Divided by per channel, on a scale of 0 to 1; ImageNet's unless given.
        intensity_range: What is black and what is white in images of more than 8 bits, in all of them alike; None: 0
            and the highest number of as few bits as hold the training images (of up to 256, but for a thousandth of
            their pixels), or from the lowest where all lie far from 0. Images of 8 bits stay as they are.
        cache: Whether decoded images are kept in memory; None: if they take up to 512 MiB.
        broken: Whether an image that can't be read ends the run (raise) or is noted and passed over (skip): then the
            next one is trained on in its place, evaluation images are all read once at the start, and none is kept in
            memory.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.

    Raises:
        InputError: If the data set, a split or a column does not exist, or labels are missing.
    """

    def __init__(
        self,
        name: str,
        image_size: int = 224,
        config: str | None = None,
        data_dir: str | None = None,
        data_files: DataFiles = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: float = 0.1,
        image_column: str = "image",
        label_column: str = "label",
        train_transforms: list[Transform] | None = None,
        eval_transforms: list[Transform] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        intensity_range: tuple[float, float] | None = None,
        cache: bool | None = None,
        broken: BrokenPolicy = "raise",
        batch_size: int = 64,
        passes: float | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        self._image_column = image_column
        self._label_column = label_column
        self._val_fraction = val_fraction
        self._data_set = HubDataSet(name, config, data_dir, data_files)
        self._split_names = {"train": train_split, "val": val_split, "test": test_split}
        super().__init__(
            class_names=None,
            image_size=image_size,
            train_transforms=train_transforms,
            eval_transforms=eval_transforms,
            mean=mean,
            std=std,
            intensity_range=intensity_range,
            cache=cache,
            broken=broken,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )

    @property
    def where(self) -> str:
        """The name of the data set."""
        return self._data_set.where

    @cached_property
    def _parts(self) -> dict[str, Part]:
        columns = {"image_column": self._image_column, "label_column": self._label_column}
        return self._data_set.parts(self._split_names, columns)

    def read_class_names(self) -> list[str]:
        """Returns the classes of the training split."""
        training = self._parts["train"]
        return _class_names(training.rows, training.where, self._label_column)

    def read_splits(self) -> ImageSplits:
        """Returns the images of the three splits, or what stands in for a missing one."""
        class_names = self.found_facts["class_names"]
        sources = {
            name: _RowImages(part, self._image_column, self._label_column, class_names, self.reader)
            for name, part in self._parts.items()
        }
        return divided(sources["train"], sources.get("val"), sources.get("test"), self._val_fraction)


class _RowImages:
    """The images of one split."""

    labels: list[int]

    def __init__(
        self, part: Part, image_column: str, label_column: str, class_names: list[str], reader: ImageReader
    ) -> None:
        self._images = ImageColumn(part, image_column)
        self._reader = reader
        self.labels = _labels(part.rows, part.where, label_column, class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, index: int) -> bytes | Path:
        return self._images.stored(index)

    def read(self, index: int) -> Tensor:
        return self._reader.read(self.stored(index), self.name(index))

    def name(self, index: int) -> str:
        return self._images.name(index)

    def key(self, index: int) -> str:
        return str(index)


def _class_names(rows: Any, where: str, column: str) -> list[str]:
    import datasets

    feature = rows.features[column]
    declared = feature.names if isinstance(feature, datasets.ClassLabel) else None
    values = declared or rows.unique(column)
    if not values:
        raise InputError(f"{where}: has no rows")
    if declared:
        names = list(declared)
    elif all(isinstance(value, str) for value in values):
        names = sorted(values)
    elif all(isinstance(value, int) for value in values) and min(values) >= 0:
        names = [str(label) for label in range(max(values) + 1)]
    else:
        raise InputError(
            f"{where}: column {column!r} holds {feature} with such values as {values[0]!r}, not classes: set "
            "data.label_column"
        )
    if len(names) == 1:
        raise InputError(f"{where}: column {column!r} holds one class alone, {names[0]}: set data.label_column")
    return names


def _labels(rows: Any, where: str, column: str, class_names: list[str]) -> list[int]:
    values = rows[column][:]
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = [numbers.get(value, -1) if isinstance(value, str) else value for value in values]
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < len(class_names):
            raise InputError(
                f"{where}, row {row}: {values[row]!r} in column {column!r} is none of the "
                f"{len(class_names)} classes of the training split"
            )
    return labels

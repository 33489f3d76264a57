"""Detection data that the `datasets` library opens by name."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.hub import DataFiles, HubDataSet, ImageColumn, Part, divided_rows
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import BrokenPolicy
from mambarium.platform.data.images.classification.labelled_images import IMAGENET_MEAN, IMAGENET_STD
from mambarium.platform.data.images.dense.dense_images import Splits
from mambarium.platform.data.images.detection.annotation_records import Area, Coordinate, Flag, Side, as_record
from mambarium.platform.data.images.detection.coco_masks import encode_segmentation
from mambarium.platform.data.images.detection.detection_images import DetectionImages
from mambarium.platform.data.images.detection.detection_samples import DetectionSample
from mambarium.platform.data.images.detection.object_files import detection_transforms, known_sizes, with_objects
from mambarium.platform.data.images.detection.objects import ObjectRecord, Objects, ObjectTable, clean_objects
from mambarium.platform.data.images.intensity import ImageReader

BoxFormat = Literal["xywh", "xyxy"]


class HubDetection(DetectionImages):
    """Boxes of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: imagefolder` with `data_dir` and a `metadata.jsonl`, `name: parquet` with `data_files`. Each row
    has an image and a column of objects: lists of boxes and classes, and if there are any, of areas ("area"), crowd
    flags ("iscrowd") and segmentations of COCO's kind ("segmentation"). Boxes are cleaned as in `CocoDetection`;
    columns `width` and `height` spare reading the header of each image for it. Images are turned as their EXIF data
    says, and boxes and masks belong to what is shown then.

    Args:
        name: The data set's name, for instance `rishitdagli/cppe-5`, or a builder of the library, or a folder.
        config: Which configuration of the data set, if it has several.
        data_dir: Folder of the files, for a builder.
        data_files: Files or patterns, alone or by split.
        train_split: The split to train on.
        val_split: The split to validate on; None: `val_fraction` of the training split is held out (chosen by a hash of
            the row number).
        test_split: The split to test on; None: the validation images.
        val_fraction: Part to hold out where there is no validation split.
        image_column: Column of the images.
        objects_column: Column of the objects.
        box_key: Name of the boxes within it.
        label_key: Name of the classes within it: class labels, whole numbers or names.
        box_format: Whether boxes are left, top, width, height (xywh) or two corners (xyxy), in pixels.
        class_names: The classes; None: those of the column, or else all that occur in the training split.
        masks: Whether segmentations are read as instance masks.
        short_side: Length that the shorter side of images is scaled to.
        long_side: Limit of the longer side after scaling.
        train_transforms: torchvision v2 transforms of training images with their boxes and masks, and those of
            mambarium.platform.data; None: the shorter side to `short_side`, random horizontal flip.
        mean: Subtracted per channel, on a scale of 0 to 1; ImageNet's unless given.
        std: Divided by per channel, on a scale of 0 to 1; ImageNet's unless given.
        intensity_range: What is black and what is white in images of more than 8 bits, in all of them alike; None: 0
            and the highest number of as few bits as hold the training images (of up to 256, but for a thousandth of
            their pixels), or from the lowest where all lie far from 0. Images of 8 bits stay as they are.
        size_multiple: What height and width of a batch are padded to a multiple of.
        broken: Whether an image that can't be read ends the run (raise) or is noted and passed over (skip): then the
            next one is trained on in its place; evaluation images are all read once at the start.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.

    Raises:
        InputError: If the data set, a split or a column does not exist, or a class is none of the classes.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        data_dir: str | None = None,
        data_files: DataFiles = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: float = 0.1,
        image_column: str = "image",
        objects_column: str = "objects",
        box_key: str = "bbox",
        label_key: str = "category",
        box_format: BoxFormat = "xywh",
        class_names: list[str] | None = None,
        masks: bool = False,
        short_side: int = 800,
        long_side: int = 1333,
        train_transforms: list[Transform] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        intensity_range: tuple[float, float] | None = None,
        size_multiple: int = 32,
        broken: BrokenPolicy = "raise",
        batch_size: int = 16,
        passes: float | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        self._image_column = image_column
        self._objects_column = objects_column
        self._val_fraction = val_fraction
        self._masks = masks
        self._keys = (box_key, label_key)
        self._box_format: BoxFormat = box_format
        self._data_set = HubDataSet(name, config, data_dir, data_files)
        self._split_names = {"train": train_split, "val": val_split, "test": test_split}
        for_training, for_evaluation = detection_transforms(train_transforms, short_side, long_side)
        super().__init__(
            class_names=class_names,
            train_transforms=for_training,
            eval_transforms=for_evaluation,
            mean=mean,
            std=std,
            intensity_range=intensity_range,
            size_multiple=size_multiple,
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
        columns = {"image_column": self._image_column, "objects_column": self._objects_column}
        return self._data_set.parts(self._split_names, columns)

    @cached_property
    def _objects(self) -> dict[str, list[list["HubObject"]]]:
        """The objects of each row of each part."""
        column = self._objects_column
        return {name: _objects_of(part.rows, part.where, column, self._keys) for name, part in self._parts.items()}

    def read_class_names(self) -> list[str]:
        """Returns the classes that the column declares, or else all that occur in the training split."""
        training = self._parts["train"]
        column, label_key = self._objects_column, self._keys[1]
        return _class_names(training.rows, training.where, column, label_key, self._objects["train"])

    def read_splits(self) -> Splits[DetectionSample]:
        """Returns the images of the three splits, or what stands in for a missing one."""
        num_rows = {part: len(objects) for part, objects in self._objects.items()}
        sources = {
            name: self._source(part, rows, training=name == "train")
            for name, (part, rows) in divided_rows(num_rows, self._val_fraction).items()
        }
        return Splits(sources["train"], sources["val"], sources.get("test", sources["val"]))

    def _source(self, part: str, rows: list[int], training: bool) -> "_HubObjects":
        opened = self._parts[part]
        where = opened.where
        images = ImageColumn(opened, self._image_column)
        stated = _stated_sizes(opened.rows, where)
        rows, sizes = known_sizes({row: stated[row] for row in rows}, images.stored, images.name, self._broken, where)
        records = [self._records(self._objects[part][row], f"{where}, row {row}") for row in rows]
        objects = clean_objects(Objects.of_records(records, self._masks), sizes, where)
        if training:
            kept = with_objects(objects, len(rows), where)
            objects, sizes = objects.of_images(kept, len(rows)), sizes[kept]
            rows = [rows[index] for index in kept]
        return _HubObjects(images, rows, ObjectTable(rows, sizes, objects), self.reader)

    def _records(self, items: list["HubObject"], where: str) -> list[ObjectRecord]:
        class_names = self.found_facts["class_names"]
        records = []
        for position, item in enumerate(items):
            place, label = f"objects[{position}]", item.category
            if isinstance(label, str) and label in class_names:
                label = class_names.index(label)
            if not isinstance(label, int) or not 0 <= label < len(class_names):
                raise InputError(
                    f"{where}: {place}.{self._keys[1]}: found {label!r}, none of the {len(class_names)} classes"
                )
            x, y, third, fourth = item.bbox
            corners = (x, y, x + third, y + fourth) if self._box_format == "xywh" else item.bbox
            if self._masks and item.segmentation is None:
                raise InputError(f"{where}: {place} has no 'segmentation': set data.masks to false")
            segmentation = (
                encode_segmentation(item.segmentation, where, f"{place}.segmentation") if self._masks else None
            )
            records.append(ObjectRecord(corners, label, bool(item.iscrowd), item.area, segmentation))
        return records


class HubObject(msgspec.Struct):
    """An object of a row, the box and the class under their usual names."""

    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    category: int | str
    area: Area | None = None
    iscrowd: Flag | None = None
    segmentation: Any = None


class _HubObjects:
    """Rows with their objects."""

    def __init__(self, images: ImageColumn, rows: list[int], objects: ObjectTable, reader: ImageReader) -> None:
        self._images = images
        self._reader = reader
        self._rows = rows
        self.objects = objects

    def __len__(self) -> int:
        return len(self._rows)

    def stored(self, index: int) -> bytes | Path:
        return self._images.stored(self._rows[index])

    def name(self, index: int) -> str:
        return self._images.name(self._rows[index])

    def read(self, key: SampleKey) -> DetectionSample:
        index = key[1]
        name = self.name(index)
        return self.objects.sample(index, self._reader.read(self.stored(index), name), name)


def _objects_of(rows: Any, where: str, column: str, keys: tuple[str, str]) -> list[list[HubObject]]:
    """The objects of each row, whether they are stored as lists of mappings or as a mapping of lists."""
    box_key, label_key = keys
    kind = msgspec.defstruct("HubObject", [], bases=(HubObject,), rename={"bbox": box_key, "category": label_key})
    found = []
    for row, stored in enumerate(rows[column][:]):
        items: Any = [] if stored is None else stored
        if isinstance(stored, dict):
            filled = {name: values for name, values in stored.items() if values is not None}
            for name, values in filled.items():
                if not isinstance(values, list):
                    raise InputError(
                        f"{where}, row {row}: column {column!r} has {name!r} {values!r}, not a list with an entry for "
                        "each object: move it to a column of its own"
                    )
            lengths = {len(values) for values in filled.values()}
            if len(lengths) > 1:
                raise InputError(f"{where}, row {row}: the lists in column {column!r} have different lengths")
            items = [{name: values[i] for name, values in filled.items()} for i in range(max(lengths, default=0))]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(
                f"{where}, row {row}: column {column!r} holds no objects, which are mappings of {keys[0]!r}, "
                f"{keys[1]!r} and so on: set data.objects_column"
            )
        for item in items:
            for key, option in zip(keys, ("box_key", "label_key"), strict=True):
                if key not in item:
                    raise InputError(
                        f"{where}, row {row}: the objects have no {key!r}; they have {', '.join(item)}: "
                        f"set data.{option}"
                    )
        found.append(as_record(items, list[kind], f"{where}, row {row}", column))  # type: ignore[valid-type]
    return found


def _class_names(rows: Any, where: str, column: str, label_key: str, objects: list[list[HubObject]]) -> list[str]:
    """The classes that a column declares, or else all that its objects have."""
    import datasets

    feature = rows.features[column]
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    label = inner.get(label_key) if isinstance(inner, dict) else None
    label = getattr(label, "feature", label)
    if isinstance(label, datasets.ClassLabel) and label.names:
        return list(label.names)
    labels = [item.category for of_image in objects for item in of_image]
    if not labels:
        raise InputError(f"{where}: no object says what the classes are: set data.class_names")
    names = [label for label in labels if isinstance(label, str)]
    numbers = [label for label in labels if isinstance(label, int)]
    if len(names) == len(labels):
        return sorted(set(names))
    if names:
        raise InputError(
            f"{where}: the objects' {label_key!r} are neither all whole numbers nor all names: mend them, or set "
            "data.label_key"
        )
    return [str(number) for number in range(max(numbers) + 1)]


def _stated_sizes(rows: Any, where: str) -> list[tuple[int, int]]:
    """Height and width of each row's image; 0 where columns of these names don't say them."""
    if not {"height", "width"} <= set(rows.column_names):
        return [(0, 0)] * len(rows)
    heights, widths = (
        as_record(rows[side][:], list[Side | None], where, f"column {side}") for side in ("height", "width")
    )
    return [(height or 0, width or 0) for height, width in zip(heights, widths, strict=True)]

"""Detection data that the `datasets` library opens by name."""

from functools import cached_property
from typing import Any, Literal

import msgspec

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.hub import HubData, HubOptions, StoredPart, class_names
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.dense.dense_images import ScaledOptions
from mambarium.platform.data.images.detection.annotation_records import Area, Coordinate, Flag, Side, as_record
from mambarium.platform.data.images.detection.coco_masks import encode_segmentation
from mambarium.platform.data.images.detection.detection_images import StoredDetection
from mambarium.platform.data.images.detection.object_files import ImagesWithObjects
from mambarium.platform.data.images.detection.objects import ObjectRecord, Objects
from mambarium.platform.data.images.stored_images import ImageRows

BoxFormat = Literal["xywh", "xyxy"]


class HubDetectionOptions(HubOptions, ScaledOptions, total=False):
    """Options of `HubData` and of `StoredDetection`."""


class HubDetection(HubData, StoredDetection):
    """Boxes of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: imagefolder` with `data_dir` and a `metadata.jsonl`, `name: parquet` with `data_files`. Each row
    has an image and a column of objects: lists of boxes and classes, and if there are any, of areas ("area"), crowd
    flags ("iscrowd") and segmentations of COCO's kind ("segmentation"). Boxes are cleaned as in `CocoDetection`;
    columns `width` and `height` spare reading the header of each image for it. Images are turned as their EXIF data
    says, and boxes and masks belong to what is shown then.

    Args:
        name: The data set's name, for instance `rishitdagli/cppe-5`, or a builder of the library, or a folder.
        image_column: Column of the images.
        objects_column: Column of the objects.
        box_key: Name of the boxes within it.
        label_key: Name of the classes within it: class labels, whole numbers or names.
        box_format: Whether boxes are left, top, width, height (xywh) or two corners (xyxy), in pixels.
        class_names: The classes; None: those of the column, or else all that occur in the training split.
        masks: Whether segmentations are read as instance masks.
        options: Those of `HubData` and of `StoredDetection`.

    Raises:
        InputError: If the data set, a split or a column does not exist, or a class is none of the classes.
    """

    def __init__(
        self,
        name: str,
        *,
        image_column: str = "image",
        objects_column: str = "objects",
        box_key: str = "bbox",
        label_key: str = "category",
        box_format: BoxFormat = "xywh",
        class_names: list[str] | None = None,
        masks: bool = False,
        **options: Inherited[HubDetectionOptions],
    ) -> None:
        columns = {"image_column": image_column, "objects_column": objects_column}
        super().__init__(name=name, columns=columns, class_names=class_names, **options)
        self._image_column, self._objects_column = image_column, objects_column
        self._keys = (box_key, label_key)
        self._box_format: BoxFormat = box_format
        self._masks = masks

    @cached_property
    def _objects(self) -> dict[str, list[list["HubObject"]]]:
        """The objects of each row of each part, by what messages call the part."""
        column = self._objects_column
        return {part.where: _objects_of(part.rows, part.where, column, self._keys) for part in self.parts.values()}

    def read_class_names(self) -> list[str]:
        rows, where, _ = self.parts["train"]
        label_key = self._keys[1]
        labels = {item.category for of_image in self._objects[where] for item in of_image}
        feature = _label_feature(rows.features[self._objects_column], label_key)
        if not labels and not getattr(feature, "names", None):
            raise InputError(f"{where}: no object says what the classes are; set data.class_names")
        names = class_names(feature, labels)
        if names is None:
            raise InputError(
                f"{where}: the objects' {label_key!r} are neither all whole numbers from 0 nor all names: mend them, "
                "or set data.label_key"
            )
        return names

    def read_splits(self) -> Splits[ImagesWithObjects]:
        parts = self.divided_parts().items()
        return Splits.of({name: self._source(part, rows, training=name == "train") for name, (part, rows) in parts})

    def _source(self, part: StoredPart, rows: list[int], training: bool) -> ImagesWithObjects:
        where = part.where
        stated = _stated_sizes(part.rows, where)
        records = [self._records(self._objects[where][row], f"{where}, row {row}") for row in rows]
        return ImagesWithObjects(
            ImageRows(part, self._image_column, rows),
            rows,
            [stated[row] for row in rows],
            Objects.of_records(records, self._masks),
            where,
            training,
            self._broken,
            self.reader,
        )

    def _records(self, items: list["HubObject"], where: str) -> list[ObjectRecord]:
        names = self.found_facts["class_names"]
        records = []
        for position, item in enumerate(items):
            place, label = f"objects[{position}]", item.category
            if isinstance(label, str) and label in names:
                label = names.index(label)
            if not isinstance(label, int) or not 0 <= label < len(names):
                raise InputError(f"{where}: {place}.{self._keys[1]}: found {label!r}, none of the {len(names)} classes")
            x, y, third, fourth = item.bbox
            corners = (x, y, x + third, y + fourth) if self._box_format == "xywh" else item.bbox
            if self._masks and item.segmentation is None:
                raise InputError(f"{where}: {place} has no 'segmentation'; set data.masks to false")
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


def _objects_of(rows: Any, where: str, column: str, keys: tuple[str, str]) -> list[list[HubObject]]:
    """Return the objects of each row, whether they are stored as lists of mappings or as a mapping of lists."""
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
                        "each object; move it to a column of its own"
                    )
            lengths = {len(values) for values in filled.values()}
            if len(lengths) > 1:
                raise InputError(f"{where}, row {row}: the lists in column {column!r} have different lengths")
            items = [{name: values[i] for name, values in filled.items()} for i in range(max(lengths, default=0))]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(
                f"{where}, row {row}: column {column!r} holds no objects, which are mappings of {keys[0]!r}, "
                f"{keys[1]!r} and so on; set data.objects_column"
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


def _label_feature(feature: Any, label_key: str) -> Any:
    """Return the type of the classes in a column of objects, which nest in either way."""
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    label = inner.get(label_key) if isinstance(inner, dict) else None
    return getattr(label, "feature", label)


def _stated_sizes(rows: Any, where: str) -> list[tuple[int, int]]:
    """Return height and width of each row's image; 0 where columns of these names don't say them."""
    if not {"height", "width"} <= set(rows.column_names):
        return [(0, 0)] * len(rows)
    heights, widths = (
        as_record(rows[side][:], list[Side | None], where, f"column {side}") for side in ("height", "width")
    )
    return [(height or 0, width or 0) for height, width in zip(heights, widths, strict=True)]

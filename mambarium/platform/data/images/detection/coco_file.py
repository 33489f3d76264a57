"""Annotation files in COCO's JSON format and LVIS's."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.images.detection.annotation_records import (
    Area,
    Coordinate,
    Flag,
    Id,
    Name,
    Side,
    read_json,
)
from mambarium.platform.data.images.detection.coco_masks import encode_plain
from mambarium.platform.data.images.detection.object_files import AnnotatedImage
from mambarium.platform.data.images.detection.objects import Objects
from mambarium.platform.data.images.image_files import contained


class Category(msgspec.Struct):
    """A class of objects; LVIS says how frequent it is: rare, common or frequent."""

    id: Id
    name: Name
    frequency: Annotated[str, Meta(pattern="^[rcf]$")] | None = None


class Image(msgspec.Struct):
    """An image.

    LVIS gives an address in place of the file's name, and lists the categories known not to be there and those of
    which not every object is marked.
    """

    id: Id
    file_name: str | None = None
    coco_url: str | None = None
    height: Side | None = None
    width: Side | None = None
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class Annotation(msgspec.Struct, gc=False):
    """An object; its box is left, top, width and height, or empty as some tools write it for a mere point."""

    image_id: Id
    category_id: Id
    bbox: Annotated[tuple[Coordinate, ...], Meta(max_length=4)] | None
    area: Area | None = None
    iscrowd: Flag | None = None


class AnnotationWithMask(Annotation, kw_only=True, gc=False):
    """An object whose segmentation is kept as it stands in the file."""

    segmentation: msgspec.Raw


class CocoFile(msgspec.Struct):
    """What a file says, segmentations passed over."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


class CocoFileWithMasks(CocoFile):
    """What a file says."""

    annotations: list[AnnotationWithMask]  # type: ignore[assignment]  # nobody adds to the list


def read_coco(file: Path, masks: bool) -> CocoFile:
    """Read an annotation file; raises InputError if it is missing, or lacks images, annotations or categories."""
    return read_json(file, CocoFileWithMasks if masks else CocoFile)


def class_names(content: CocoFile, file: Path) -> dict[int, str]:
    """Return the name of each category id in the order of the ids; raises InputError if there are none or equal ids."""
    categories = content.categories
    if not categories:
        raise InputError(f"{file}: lists no categories")
    _require_different([category.id for category in categories], file, "categories", "id")
    names = [category.name.strip() for category in categories]
    return dict(sorted(zip((category.id for category in categories), names, strict=True)))


def class_frequencies(content: CocoFile) -> list[str] | None:
    """Return LVIS's frequency of each category in the order of the ids, if all have one."""
    categories = sorted(content.categories, key=lambda category: category.id)
    frequencies = [category.frequency for category in categories if category.frequency is not None]
    return frequencies if len(frequencies) == len(categories) else None


def check_names(content: CocoFile, file: Path, names: dict[int, str]) -> None:
    """Refuse a file in which a category has another name than in the training file, which `names` gives by id."""
    for number, found in class_names(content, file).items():
        name = names.get(number, found)
        if name != found:
            raise InputError(
                f"{file}: category {number} is {found!r}, in the training file it is {name!r}: "
                "give files of the same categories"
            )


def read_images(content: CocoFile, file: Path, folder: Path, category_ids: list[int]) -> list[AnnotatedImage]:
    """Return the images of an annotation file in its order, given the category id of each class.

    Raises:
        InputError: If an id or a file name occurs twice, an image has no name or one outside the folder, or only some
            images have LVIS's lists.
    """
    _require_different([image.id for image in content.images], file, "images", "id")
    files = [_image_file(image, folder, f"{file}: images[{index}]") for index, image in enumerate(content.images)]
    _require_different([str(path) for path in files], file, "images", "file_name")
    checked = _checked_classes(content.images, file, category_ids)
    return [
        AnnotatedImage(path, image.id, image.height or 0, image.width or 0, classes)
        for path, image, classes in zip(files, content.images, checked, strict=True)
    ]


def _image_file(image: Image, folder: Path, where: str) -> Path:
    name = image.file_name
    if not name:  # LVIS gives the address alone, which ends with the folder and the name
        if not image.coco_url:
            raise InputError(f"{where} has neither file_name nor coco_url")
        name = "/".join(image.coco_url.split("/")[-2:])
    return contained(folder, name, where)


def read_objects(content: CocoFile, file: Path, category_ids: list[int]) -> Objects:
    """Return the objects of an annotation file in the order of the images, those of images not listed left out.

    Raises InputError if a category is none of the classes, a box isn't four numbers, or a segmentation is none.
    """
    annotations = content.annotations
    class_of = {number: label for label, number in enumerate(category_ids)}
    place_of = {image.id: place for place, image in enumerate(content.images)}
    for position, item in enumerate(annotations):
        if item.category_id not in class_of:
            raise InputError(
                f"{file}: annotations[{position}].category_id: found {item.category_id}, which is none of the "
                f"{len(category_ids)} categories of the training file"
            )
        if item.bbox and len(item.bbox) != 4:
            raise InputError(
                f"{file}: annotations[{position}].bbox: found {item.bbox}, expected left, top, width, height"
            )
    images = np.array([place_of.get(item.image_id, -1) for item in annotations], dtype=np.int64)
    if (images < 0).any():
        note(f"{file}: {int((images < 0).sum())} annotations of images that it does not list left out")
    stated = [item.bbox or (0.0,) * 4 for item in annotations]
    boxes = np.array(stated, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segmentations = None
    if isinstance(content, CocoFileWithMasks):
        segmentations = [
            encode_plain(bytes(item.segmentation), str(file), f"annotations[{position}].segmentation")
            for position, item in enumerate(content.annotations)
        ]
    objects = Objects(
        images,
        boxes,
        labels=np.array([class_of[item.category_id] for item in annotations], dtype=np.int64),
        crowd=np.array([bool(item.iscrowd) for item in annotations], dtype=bool),
        areas=np.array([math.nan if item.area is None else item.area for item in annotations], dtype=np.float64),
        segmentations=segmentations,
    )
    order = np.argsort(images, kind="stable")
    return objects.chosen(order[images[order] >= 0])


def _checked_classes(
    images: list[Image], file: Path, category_ids: list[int]
) -> Iterable[tuple[list[int], list[int]] | None]:
    """Return LVIS's lists as classes; of all images or none, as evaluation follows one rule."""
    given = any(image.neg_category_ids is not None for image in images)
    partly = any(image.not_exhaustive_category_ids is not None for image in images)
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    for image in images:
        for key, wanted in (("neg_category_ids", given or partly), ("not_exhaustive_category_ids", partly)):
            if wanted and getattr(image, key) is None:
                raise InputError(
                    f"{file}: image {image.id} has no {key!r}, which other images or LVIS's other list ask for: "
                    "give the lists to all images or to none"
                )
        lists = (image.neg_category_ids or [], image.not_exhaustive_category_ids or [])
        negative, partial = ([labels[number] for number in numbers if number in labels] for numbers in lists)
        yield (negative, partial) if given else None


def _require_different(values: list[Any], file: Path, records: str, key: str) -> None:
    first: dict[Any, int] = {}
    for position, value in enumerate(values):
        if first.setdefault(value, position) != position:
            raise InputError(
                f"{file}: {records}[{position}].{key}: found {value!r}, which {records}[{first[value]}] has already: "
                "give each one once"
            )

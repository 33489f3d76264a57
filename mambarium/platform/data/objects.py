"""Objects of annotation files: cleaned once, kept in a few arrays."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mambarium.platform.data.coco_masks import NO_POLYGONS, decode_segmentation, shows_nothing
from mambarium.platform.data.decoding import sideways_hint
from mambarium.platform.data.detection_samples import DetectionSample, detection_sample
from mambarium.platform.data.notes import note
from mambarium.platform.data.sample_error import SampleError

BORDER_TOLERANCE = 1.0
"""Pixels by which a box may reach over the border, as rounding makes it, and stay as it is."""


MASK_BYTES = 2**33
"""Memory, at a byte a pixel, that the masks of one image may take."""


class ObjectRecord(NamedTuple):
    """One object as an annotation file describes it.

    Attributes:
        box: Corners x1, y1, x2, y2 in pixels.
        label: Class number from 0.
        crowd: Whether it is a crowd, or too difficult to count.
        area: In pixels; None: that of the box.
        segmentation: Polygons or run lengths as `encode_segmentation` leaves them.
    """

    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    area: float | None = None
    segmentation: bytes | None = None


def clean_objects(
    objects: Sequence[ObjectRecord], height: int, width: int, changes: Counter[str]
) -> list[ObjectRecord]:
    """Leaves out boxes of zero area or outside the image and objects without a polygon, and clips boxes.

    Boxes that reach over the border by more than the tolerance are clipped to the image. Objects with an empty mask
    are counted and stay: evaluation has to find them, `visible_objects` leaves them out of training.

    Args:
        objects: The objects of an image.
        height: Height of the image.
        width: Width of the image.
        changes: Counts what was done; added to.

    Returns:
        The objects that are left.
    """
    kept = []
    for item in objects:
        x1, y1, x2, y2 = item.box
        if not (x2 > x1 and y2 > y1):  # not a number is neither
            changes["boxes of zero area left out"] += 1
        elif x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            changes["boxes outside their image left out"] += 1
        elif item.segmentation == NO_POLYGONS:
            changes["objects without a polygon left out"] += 1
        else:
            if item.segmentation is not None and shows_nothing(json.loads(item.segmentation), height, width):
                changes["objects with an empty mask left out of training"] += 1
            if max(-x1, -y1, x2 - width, y2 - height) > BORDER_TOLERANCE:
                changes["boxes clipped to their image"] += 1
                item = item._replace(box=(max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)))
            kept.append(item)
    return kept


def note_changes(changes: Counter[str], where: str) -> None:
    """Tells what was cleaned, if anything.

    Args:
        changes: Counts by what was done.
        where: The annotations.
    """
    if changes:
        note(f"{where}: " + ", ".join(f"{count} {change}" for change, count in sorted(changes.items())))


class ObjectTable:
    """The objects of many images in a few arrays, which worker processes share without copying them.

    Args:
        image_ids: The number of each image.
        sizes: Height and width of each image.
        objects: The objects of each image.
        masks: Whether samples have masks.
    """

    def __init__(
        self,
        image_ids: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        objects: Sequence[Sequence[ObjectRecord]],
        masks: bool,
    ) -> None:
        self._image_ids = np.array(image_ids, dtype=np.int64)
        self._sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum([len(of_image) for of_image in objects])
        flat = [item for of_image in objects for item in of_image]
        self._boxes = np.array([item.box for item in flat], dtype=np.float32).reshape(-1, 4)
        self._labels = np.array([item.label for item in flat], dtype=np.int64)
        self._crowd = np.array([item.crowd for item in flat], dtype=bool)
        box_areas = (self._boxes[:, 2:] - self._boxes[:, :2]).prod(axis=1)
        areas = [box if item.area is None else item.area for item, box in zip(flat, box_areas, strict=True)]
        self._areas = np.array(areas, dtype=np.float32)
        self._segmentations = [item.segmentation for item in flat] if masks else None

    def __len__(self) -> int:
        return len(self._image_ids)

    def class_counts(self, num_classes: int) -> list[int]:
        """Counts the objects of each class, crowds not among them."""
        return np.bincount(self._labels[~self._crowd], minlength=num_classes).tolist()

    def most_in_an_image(self) -> tuple[int, int]:
        """Returns the largest number of objects in an image, and of one class in an image, crowds not among them."""
        images = np.repeat(np.arange(len(self)), np.diff(self._ends, prepend=0))[~self._crowd]
        of_classes = np.stack([images, self._labels[~self._crowd]])
        counts = (np.unique(keys, axis=-1, return_counts=True)[1] for keys in (images, of_classes))
        in_image, of_class = (int(count.max(initial=0)) for count in counts)
        return in_image, of_class

    def sample(self, index: int, image: Tensor, name: str) -> DetectionSample:
        """Puts an image and its objects together.

        Args:
            index: Which image of the table.
            image: uint8 (3, height, width).
            name: What an error message calls it.

        Returns:
            The sample.

        Raises:
            SampleError: If the image has another size than the annotations say, or a mask can't be decoded.
        """
        height, width = image.shape[-2:]
        said_height, said_width = self._sizes[index].tolist()
        if (height, width) != (said_height, said_width):
            raise SampleError(
                f"{name}: has {width} x {height} pixels but its annotations were made for {said_width} x "
                f"{said_height}{sideways_hint((height, width), (said_height, said_width))}; mend or remove it"
            )
        objects = slice(0 if index == 0 else int(self._ends[index - 1]), int(self._ends[index]))
        return detection_sample(
            image,
            torch.from_numpy(self._boxes[objects].copy()),
            torch.from_numpy(self._labels[objects].copy()),
            image_id=int(self._image_ids[index]),
            crowd=torch.from_numpy(self._crowd[objects].copy()),
            area=torch.from_numpy(self._areas[objects].copy()),
            masks=self._masks(objects, height, width, name),
        )

    def _masks(self, objects: slice, height: int, width: int, name: str) -> Tensor | None:
        if self._segmentations is None:
            return None
        if (objects.stop - objects.start) * height * width > MASK_BYTES:
            raise SampleError(
                f"{name}: the masks of its {objects.stop - objects.start} objects take more than "
                f"{MASK_BYTES // 2**30} GiB: cut the image into tiles, make it smaller or remove it"
            )
        masks = torch.zeros(objects.stop - objects.start, height, width, dtype=torch.bool)
        for position, encoded in enumerate(self._segmentations[objects]):
            if encoded is None:
                raise SampleError(f"{name}: object {position + 1} has no segmentation; leave data.masks false")
            try:
                masks[position] = decode_segmentation(json.loads(encoded), height, width)
            except ValueError as error:
                raise SampleError(f"{name}: object {position + 1} has {error}; mend or remove it") from error
        return masks

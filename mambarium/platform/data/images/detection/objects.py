"""Objects of annotation files: cleaned once, kept in a few arrays."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.decoding import sideways_hint
from mambarium.platform.data.images.detection.coco_masks import (
    NO_POLYGONS,
    decode_segmentation,
    shows_nothing,
    stored_segmentation,
)
from mambarium.platform.data.images.detection.detection_samples import DetectionSample, detection_sample

BORDER_TOLERANCE = 1.0
"""Pixels by which a box may reach over the border, as rounding makes it, and stay as it is."""

ROUNDING = 1e-3
"""By how much boxes that are given as parts of their image may reach over 1."""

MASK_BYTES = 2**33
"""Memory, at a byte a pixel, that the masks of one image may take."""


class ObjectRecord(NamedTuple):
    """One object as an annotation file describes it: an entry of each column of `Objects`; None: there is none."""

    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    area: float | None = None
    segmentation: bytes | None = None


class Objects(NamedTuple):
    """The objects of many images, in the order of the images, an entry of each column for each object.

    Attributes:
        images: int64, which of the images it is in.
        boxes: float64 (objects, 4), corners x1, y1, x2, y2 in pixels.
        labels: int64, class numbers from 0.
        crowd: Boolean, whether it is a crowd, or too difficult to count.
        areas: float64, in pixels; NaN: that of the box.
        segmentations: As `encode_segmentation` leaves them; None: there are no masks.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    segmentations: list[bytes] | None

    @classmethod
    def of_records(cls, records: Sequence[Sequence[ObjectRecord]], masks: bool) -> "Objects":
        """Put the objects of each image in columns."""
        flat = [item for of_image in records for item in of_image]
        return cls(
            np.repeat(np.arange(len(records)), [len(of_image) for of_image in records]),
            np.array([item.box for item in flat], dtype=np.float64).reshape(-1, 4),
            np.array([item.label for item in flat], dtype=np.int64),
            np.array([item.crowd for item in flat], dtype=bool),
            np.array([math.nan if item.area is None else item.area for item in flat], dtype=np.float64),
            [item.segmentation or NO_POLYGONS for item in flat] if masks else None,
        )

    def chosen(self, rows: NDArray[np.int64]) -> "Objects":
        """Return some of the objects, in the given order."""
        segmentations = None if self.segmentations is None else [self.segmentations[row] for row in rows.tolist()]
        return Objects(
            self.images[rows], self.boxes[rows], self.labels[rows], self.crowd[rows], self.areas[rows], segmentations
        )

    def of_images(self, kept: Sequence[int], num_images: int) -> "Objects":
        """Return the objects of some of the images, which are numbered anew from 0 in the given order."""
        numbers = np.full(num_images, -1)
        numbers[list(kept)] = np.arange(len(kept))
        renumbered = self._replace(images=numbers[self.images])
        return renumbered.chosen(np.flatnonzero(renumbered.images >= 0))


def clean_objects(objects: Objects, sizes: NDArray[np.int64], where: str) -> Objects:
    """Leave out boxes of zero area or outside the image and objects without a polygon, and clip boxes; tell it.

    Boxes that reach over the border by more than the tolerance are clipped to the image, whose sizes (images, 2) are
    heights and widths. Boxes of less than a pixel and objects with an empty mask are counted and stay: evaluation has
    to find them, `visible_objects` leaves them out of training unless they are enlarged.

    Raises InputError if all boxes are given as parts of their image.
    """
    _require_pixels(objects.boxes, where)
    changes: Counter[str] = Counter()
    x1, y1, x2, y2 = objects.boxes.T
    height, width = sizes[objects.images].T
    flat = ~((x2 > x1) & (y2 > y1))
    outside = ~flat & ((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0))
    changes["boxes of zero area left out"] = int(flat.sum())
    changes["boxes outside their image left out"] = int(outside.sum())
    kept = ~(flat | outside)
    if objects.segmentations is not None:
        for row in np.flatnonzero(kept).tolist():
            encoded = objects.segmentations[row]
            if encoded == NO_POLYGONS:
                changes["objects without a polygon left out"] += 1
                kept[row] = False
            elif shows_nothing(stored_segmentation(encoded), int(height[row]), int(width[row])):
                changes["objects with an empty mask left out of training"] += 1
    objects = objects.chosen(np.flatnonzero(kept))
    limits = np.tile(sizes[objects.images][:, ::-1], 2)  # (objects, 4) width, height, width, height
    over = np.maximum(-objects.boxes, objects.boxes - limits).max(axis=1, initial=0) > BORDER_TOLERANCE
    objects.boxes[over] = np.clip(objects.boxes[over], 0, limits[over])
    changes["boxes clipped to their image"] = int(over.sum())
    small = (objects.boxes[:, 2:] - objects.boxes[:, :2]).min(axis=1, initial=math.inf) < 1
    changes["boxes less than a pixel wide or high"] = int(small.sum())
    told = ", ".join(f"{count} {change}" for change, count in sorted(changes.items()) if count)
    if told:
        note(f"{where}: {told}")
    return objects


def _require_pixels(boxes: NDArray[np.float64], where: str) -> None:
    sides = boxes[:, 2:] - boxes[:, :2]
    if (sides > 0).any() and (np.abs(boxes) <= 1 + ROUNDING).all() and (boxes % 1 != 0).any():
        raise InputError(
            f"{where}: every box lies within 0 and 1, such as {boxes[0].round(4).tolist()} (corners), as a part of its "
            "image: multiply by the images' width and height, boxes are expected in pixels"
        )


class ObjectTable:
    """The objects of many images in a few arrays, which worker processes share without copying them."""

    def __init__(self, image_ids: Sequence[int], sizes: NDArray[np.int64], objects: Objects) -> None:
        self._image_ids = np.array(image_ids, dtype=np.int64)
        self._sizes = sizes
        self._ends = np.searchsorted(objects.images, np.arange(len(image_ids)), side="right")
        self._boxes = objects.boxes.astype(np.float32)
        self._labels = objects.labels
        self._crowd = objects.crowd
        box_areas = (self._boxes[:, 2:] - self._boxes[:, :2]).prod(axis=1)
        self._areas = np.where(np.isnan(objects.areas), box_areas, objects.areas).astype(np.float32)
        self._segmentations = objects.segmentations

    def __len__(self) -> int:
        return len(self._image_ids)

    def class_counts(self, num_classes: int) -> list[int]:
        """Count the objects of each class, crowds not among them."""
        return np.bincount(self._labels[~self._crowd], minlength=num_classes).tolist()

    def most_in_an_image(self) -> tuple[int, int]:
        """Return the largest number of objects in an image, and of one class in an image, crowds not among them."""
        images = np.repeat(np.arange(len(self)), np.diff(self._ends, prepend=0))[~self._crowd]
        of_classes = np.stack([images, self._labels[~self._crowd]])
        counts = (np.unique(keys, axis=-1, return_counts=True)[1] for keys in (images, of_classes))
        in_image, of_class = (int(count.max(initial=0)) for count in counts)
        return in_image, of_class

    def sample(self, index: int, image: Tensor, name: str) -> DetectionSample:
        """Put the image of an index, uint8 (3, height, width), and its objects together.

        Raises SampleError with the name if annotations say another size than the image has, or a mask can't be decoded.
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
            try:
                masks[position] = decode_segmentation(stored_segmentation(encoded), height, width)
            except ValueError as error:
                raise SampleError(f"{name}: object {position + 1} has {error}; mend or remove it") from error
        return masks

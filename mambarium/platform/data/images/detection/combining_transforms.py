"""Transforms that make one sample of detection out of several."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mambarium.errors import InputError
from mambarium.platform.data.images.dense.dense_transforms import ResizeShortSide
from mambarium.platform.data.images.detection.detection_samples import (
    OBJECT_ENTRIES,
    DetectionSample,
    boxes_of_masks,
    keep_objects,
    visible_objects,
)
from mambarium.platform.data.images.image_samples import CombiningTransform

MOSAIC_FILL = 114
"""Grey between the images of a mosaic, as in the YOLO family."""


class Mosaic(CombiningTransform):
    """Puts four samples around a point of a canvas twice as large (Bochkovskiy et al. 2020, YOLOv4); for detection.

    Each image is scaled to fit `size`, and touches the point with a corner; what lies outside the canvas of
    2 x `size` is cut off. A `LargeScaleJitter` or a `WindowCrop` after it brings the canvas to the size to train on.

    Args:
        size: Limit of both sides of each image, in pixels.
        probability: How often samples are combined; others are only scaled to `size`.

    Raises:
        InputError: If a number is out of range, or a sample has no boxes.
    """

    def __init__(self, size: int, probability: float = 1.0) -> None:
        super().__init__()
        if size < 2 or not 0 <= probability <= 1:
            raise InputError(f"Mosaic: size {size}, probability {probability}; give 2 or more, and 0 to 1")
        self.size = size
        self.probability = probability
        self._resize = ResizeShortSide([size], size)

    def combine(self, sample: DetectionSample, draw: Callable[[], DetectionSample]) -> DetectionSample:
        _require_boxes(sample, self)
        if float(torch.rand(())) >= self.probability:
            return self._resize(sample)
        canvas = torch.full((3, 2 * self.size, 2 * self.size), MOSAIC_FILL, dtype=torch.uint8)
        middle = torch.randint(self.size // 2, self.size + self.size // 2 + 1, (2,)).tolist()  # row, column
        placed = []
        for quadrant in range(4):
            part: DetectionSample = self._resize(sample if quadrant == 0 else draw())
            height, width = part["image"].shape[-2:]
            top = middle[0] - height if quadrant < 2 else middle[0]
            left = middle[1] - width if quadrant % 2 == 0 else middle[1]
            moved = _on_canvas(part, canvas, top, left)
            placed.append(moved)
        combined = sample.copy()
        combined["image"] = tv_tensors.Image(canvas)
        _put_objects_together(combined, placed, 2 * self.size, 2 * self.size)
        return visible_objects(combined)


class CopyPaste(CombiningTransform):
    """Pastes objects of another sample on an image (Ghiasi et al. 2021); for data with instance masks.

    Each object of the other sample is taken with even chance, crowds never. What it covers is taken from the masks
    below it, and their boxes shrink to what is left.

    Args:
        probability: How often objects are pasted.

    Raises:
        InputError: If the probability is out of range, or a sample has no masks.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise InputError(f"CopyPaste: probability {probability}; give 0 to 1")
        self.probability = probability

    def combine(self, sample: DetectionSample, draw: Callable[[], DetectionSample]) -> DetectionSample:
        _require_boxes(sample, self)
        if "masks" not in sample:
            raise InputError("CopyPaste needs masks of the objects; set data.masks to true, or take it out")
        if float(torch.rand(())) >= self.probability:
            return sample
        other = draw()
        chosen = (torch.rand(len(other["labels"])) < 0.5) & ~other["crowd"]
        height, width = sample["image"].shape[-2:]
        canvas = sample["image"].as_subclass(Tensor).clone()
        pasted = keep_objects(other, chosen)
        moved = visible_objects(_on_canvas(pasted, canvas.clone(), 0, 0))
        masks = moved["masks"].as_subclass(Tensor)  # (objects, height, width)
        if not len(masks):
            return sample
        covered = masks.any(dim=0)
        source = other["image"].as_subclass(Tensor)[:, :height, :width]
        window = canvas[:, : source.shape[1], : source.shape[2]]
        window.copy_(torch.where(covered[: source.shape[1], : source.shape[2]], source, window))
        below = _uncovered(sample, covered)
        combined = sample.copy()
        combined["image"] = tv_tensors.Image(canvas)
        _put_objects_together(combined, [below, moved], height, width)
        return combined


def _require_boxes(sample: DetectionSample, transform: v2.Transform) -> None:
    if "boxes" not in sample:
        raise InputError(f"{type(transform).__name__} combines images with boxes; take it out of data.train_transforms")


def _on_canvas(sample: DetectionSample, canvas: Tensor, top: int, left: int) -> DetectionSample:
    """Put an image on a canvas (3, height, width), in place, and its objects into the canvas's coordinates."""
    height, width = canvas.shape[1:]
    image = sample["image"].as_subclass(Tensor)
    bottom, right = min(height, top + image.shape[1]), min(width, left + image.shape[2])
    first_row, first_column = max(0, top), max(0, left)
    seen = (slice(first_row - top, bottom - top), slice(first_column - left, right - left))
    canvas[:, first_row:bottom, first_column:right] = image[:, *seen]
    moved = sample.copy()
    boxes = sample["boxes"].as_subclass(Tensor) + torch.tensor([left, top, left, top])
    moved["image"] = tv_tensors.Image(canvas)
    moved["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    if "masks" in sample:
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        masks[:, first_row:bottom, first_column:right] = sample["masks"].as_subclass(Tensor)[:, *seen]
        moved["masks"] = tv_tensors.Mask(masks)
    return moved


def _uncovered(sample: DetectionSample, covered: Tensor) -> DetectionSample:
    """Take covered pixels (height, width) out of the masks; objects of which nothing is left are left out."""
    masks = sample["masks"].as_subclass(Tensor)
    touched = (masks & covered).flatten(1).any(dim=1)
    left = masks & ~covered
    uncovered = sample.copy()
    uncovered["masks"] = tv_tensors.Mask(left)
    some = left.flatten(1).any(dim=1)
    shrunk = boxes_of_masks(left)
    boxes = torch.where((touched & some)[:, None], shrunk, sample["boxes"].as_subclass(Tensor))
    uncovered["boxes"] = tv_tensors.wrap(boxes, like=sample["boxes"])
    return keep_objects(uncovered, some)


def _put_objects_together(combined: DetectionSample, parts: list[DetectionSample], height: int, width: int) -> None:
    """Give a sample, in place, the objects of several."""
    entries: dict[str, Any] = combined  # type: ignore[assignment]  # entries are set by name
    for name in OBJECT_ENTRIES:
        if name in combined:
            values = [part[name].as_subclass(Tensor) for part in parts]  # type: ignore[literal-required]  # as above
            entries[name] = torch.cat(values)
    combined["boxes"] = tv_tensors.BoundingBoxes(combined["boxes"], format="XYXY", canvas_size=(height, width))
    if "masks" in combined:
        combined["masks"] = tv_tensors.Mask(combined["masks"])

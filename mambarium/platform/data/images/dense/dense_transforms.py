"""Transforms of images with boxes or masks: sizes, crops, combinations of several samples."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mambarium.errors import InputError
from mambarium.platform.data.images.augmentation import CombiningTransform
from mambarium.platform.data.images.detection.detection_samples import (
    OBJECT_ENTRIES,
    DetectionSample,
    boxes_of_masks,
    keep_objects,
    visible_objects,
)
from mambarium.tasks.batches import IGNORED_CLASS

MOSAIC_FILL = 114
"""Grey between the images of a mosaic, as in the YOLO family."""

CROP_ATTEMPTS = 10
"""Windows that `WindowCrop` tries."""


def fitted_size(height: int, width: int, short_side: float, long_side: float) -> tuple[int, int]:
    """The size of an image whose sides are scaled alike until one of them reaches its limit.

    Args:
        height: Height of the image.
        width: Width of the image.
        short_side: Limit of the shorter side.
        long_side: Limit of the longer side.

    Returns:
        Height and width, at least 1.
    """
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _image_size(flat_inputs: list[Any]) -> tuple[int, int]:
    image = next(value for value in flat_inputs if isinstance(value, tv_tensors.Image))
    return image.shape[-2], image.shape[-1]


class ResizeShortSide(v2.Transform):
    """Scales an image so that its shorter side has one of several lengths, as Mask R-CNN's recipes do.

    Args:
        short_sides: Lengths in pixels, one of which is drawn.
        long_side: Limit of the longer side in pixels; it wins where both can't be kept. None: no limit.

    Raises:
        InputError: If a length is below 1.
    """

    def __init__(self, short_sides: list[int], long_side: int | None = None) -> None:
        super().__init__()
        if not short_sides or min(short_sides) < 1 or (long_side is not None and long_side < 1):
            raise InputError(f"ResizeShortSide: short_sides {short_sides}, long_side {long_side}: give 1 or more")
        self.short_sides = list(short_sides)
        self.long_side = long_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the size."""
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        return {"size": fitted_size(*_image_size(flat_inputs), short_side, self.long_side or float("inf"))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resizes one entry."""
        return F.resize(inpt, list(params["size"]), antialias=True)


class LargeScaleJitter(v2.Transform):
    """Scales an image by a random factor around a size; a `WindowCrop` after it cuts out a part.

    The image is scaled to fit `short_side` and `long_side` times a factor drawn evenly from `scales`. With both sides
    1024 and scales 0.1 to 2 it is the large-scale jitter of Ghiasi et al. 2021; with 512, 2048 and 0.5 to 2 the resize
    of the published ADE20K recipes.

    Args:
        short_side: Length of the shorter side at factor 1, in pixels.
        long_side: Limit of the longer side at factor 1, in pixels.
        scales: Range of the factor.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, short_side: int, long_side: int, scales: tuple[float, float] = (0.1, 2.0)) -> None:
        super().__init__()
        if short_side < 1 or long_side < 1 or not 0 < scales[0] <= scales[1]:
            raise InputError(
                f"LargeScaleJitter: short_side {short_side}, long_side {long_side}, scales {list(scales)}: give sides "
                "of 1 or more and scales above 0, the smaller first"
            )
        self.short_side = short_side
        self.long_side = long_side
        self.scales = scales

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the factor."""
        factor = float(torch.empty(()).uniform_(*self.scales))
        size = fitted_size(*_image_size(flat_inputs), factor * self.short_side, factor * self.long_side)
        return {"size": size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resizes one entry."""
        return F.resize(inpt, list(params["size"]), antialias=True)


class WindowCrop(v2.Transform):
    """Cuts out a window at random; an image smaller than the window keeps its size, and the batch pads it.

    Args:
        height: Height of the window in pixels.
        width: Width of the window in pixels.
        smallest: If given, both sides are drawn from this many pixels up to `height` and `width`.
        max_class_share: Of masks of classes: up to ten windows are tried until no class takes a larger part of the
            pixels that count; the published segmentation recipes take 0.75.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, height: int, width: int, smallest: int | None = None, max_class_share: float = 1.0) -> None:
        super().__init__()
        if min(height, width) < (1 if smallest is None else max(1, smallest)) or not 0 < max_class_share <= 1:
            raise InputError(
                f"WindowCrop: height {height}, width {width}, smallest {smallest}, max_class_share {max_class_share}: "
                "give 1 or more pixels, smallest no more than height and width, and a share above 0 and up to 1"
            )
        self.smallest = smallest
        self.height = height
        self.width = width
        self.max_class_share = max_class_share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the window."""
        image_height, image_width = _image_size(flat_inputs)
        height, width = self.height, self.width
        if self.smallest is not None:
            height = int(torch.randint(self.smallest, height + 1, ()))
            width = int(torch.randint(self.smallest, width + 1, ()))
        height, width = min(height, image_height), min(width, image_width)
        classes = [value for value in flat_inputs if isinstance(value, tv_tensors.Mask) and value.ndim == 2]
        for _ in range(CROP_ATTEMPTS):
            top = int(torch.randint(image_height - height + 1, ()))
            left = int(torch.randint(image_width - width + 1, ()))
            if self.max_class_share == 1 or not classes:
                break
            counts = classes[0][top : top + height, left : left + width].as_subclass(Tensor).flatten().bincount()
            counts = counts[:IGNORED_CLASS]
            if len(counts) and counts.max() <= self.max_class_share * counts.sum():
                break
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crops one entry; boxes are clipped to the window."""
        return F.crop(inpt, **params)


class Mosaic(CombiningTransform):
    """Puts four samples around a point of a canvas twice as large (Bochkovskiy et al. 2020, YOLOv4); for detection.

    Each image is scaled to fit `size`, and touches the point with a corner; what lies outside the canvas of
    2 x `size` is cut off. A `LargeScaleJitter` or a `WindowCrop` after it brings the canvas to the size to train on.

    Args:
        size: Limit of both sides of each image, in pixels.
        probability: How often samples are combined; others are only scaled to `size`.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, size: int, probability: float = 1.0) -> None:
        super().__init__()
        if size < 2 or not 0 <= probability <= 1:
            raise InputError(f"Mosaic: size {size}, probability {probability}: give 2 or more, and 0 to 1")
        self.size = size
        self.probability = probability
        self._resize = ResizeShortSide([size], size)

    def combine(self, sample: DetectionSample, draw: Callable[[], DetectionSample]) -> DetectionSample:
        """Combines a sample with three others.

        Raises:
            InputError: If samples have no boxes.
        """
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
        InputError: If the probability is out of range.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise InputError(f"CopyPaste: probability {probability}: give 0 to 1")
        self.probability = probability

    def combine(self, sample: DetectionSample, draw: Callable[[], DetectionSample]) -> DetectionSample:
        """Pastes objects of a drawn sample.

        Raises:
            InputError: If samples have no masks.
        """
        _require_boxes(sample, self)
        if "masks" not in sample:
            raise InputError("CopyPaste needs masks of the objects: set data.masks to true, or take it out")
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
        raise InputError(f"{type(transform).__name__} combines images with boxes: take it out of data.train_transforms")


def _on_canvas(sample: DetectionSample, canvas: Tensor, top: int, left: int) -> DetectionSample:
    """Puts an image on a canvas (3, height, width), in place, and its objects into the canvas's coordinates."""
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
    """Takes covered pixels (height, width) out of the masks; objects of which nothing is left are left out."""
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
    """Gives a sample, in place, the objects of several."""
    entries: dict[str, Any] = combined  # type: ignore[assignment]  # entries are set by name
    for name in OBJECT_ENTRIES:
        if name in combined:
            values = [part[name].as_subclass(Tensor) for part in parts]  # type: ignore[literal-required]  # as above
            entries[name] = torch.cat(values)
    combined["boxes"] = tv_tensors.BoundingBoxes(combined["boxes"], format="XYXY", canvas_size=(height, width))
    if "masks" in combined:
        combined["masks"] = tv_tensors.Mask(combined["masks"])

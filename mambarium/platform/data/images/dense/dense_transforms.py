"""Transforms of images with boxes or masks: sizes and crops."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mambarium.errors import InputError
from mambarium.tasks.batches import IGNORED_CLASS

CROP_ATTEMPTS = 10
"""Windows that `WindowCrop` tries."""


def fitted_size(height: int, width: int, short_side: float, long_side: float) -> tuple[int, int]:
    """Return height and width, at least 1, of an image scaled until its shorter or longer side reaches its limit."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _image_size(flat_inputs: list[Any]) -> tuple[int, int]:
    image = next(value for value in flat_inputs if isinstance(value, tv_tensors.Image))
    return image.shape[-2], image.shape[-1]


class _Resize(v2.Transform):
    """Scales all entries of a sample to the size that `make_params` says."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, list(params["size"]), antialias=True)


class ResizeShortSide(_Resize):
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
            raise InputError(f"ResizeShortSide: short_sides {short_sides}, long_side {long_side}; give 1 or more")
        self.short_sides = list(short_sides)
        self.long_side = long_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        return {"size": fitted_size(*_image_size(flat_inputs), short_side, self.long_side or float("inf"))}


class LargeScaleJitter(_Resize):
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
                f"LargeScaleJitter: short_side {short_side}, long_side {long_side}, scales {list(scales)}; give sides "
                "of 1 or more and scales above 0, the smaller first"
            )
        self.short_side = short_side
        self.long_side = long_side
        self.scales = scales

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = float(torch.empty(()).uniform_(*self.scales))
        size = fitted_size(*_image_size(flat_inputs), factor * self.short_side, factor * self.long_side)
        return {"size": size}


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
        """Crop one entry; boxes are clipped to the window."""
        return F.crop(inpt, **params)

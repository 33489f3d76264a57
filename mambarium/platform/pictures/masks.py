"""Class maps as palette PNG files, and pictures as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from mambarium.platform.data.images.drawing import class_color, painted_classes
from mambarium.tasks.batches import IGNORED_CLASS

IGNORED_COLOR = (224, 224, 224)
"""Colour of pixels that don't count."""


def write_mask(class_map: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Write class numbers uint8 (height, width) as an 8-bit palette PNG: readers see numbers, viewers colours."""
    palette = dict.fromkeys(range(256), (0, 0, 0)) | {IGNORED_CLASS: IGNORED_COLOR}
    palette |= {number: class_color(number) for number in painted_classes(class_map, class_names)}
    image = Image.fromarray(class_map.cpu().numpy()).convert("P")
    image.putpalette([value for color in palette.values() for value in color])
    image.save(path)


def write_picture(picture: Tensor, path: Path) -> None:
    """Write a picture uint8 (3, height, width) as PNG."""
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(path)

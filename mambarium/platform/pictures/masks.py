"""Class maps as palette PNG files and as pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mambarium.tasks.batches import IGNORED_CLASS

IGNORED_COLOR = (224, 224, 224)
"""Colour of pixels that don't count."""


def class_colors() -> Tensor:
    """Pascal VOC's colours: a class number's bits spread over red, green and blue, the lowest bits brightest.

    Class 0, most sets' background, is black; `IGNORED_CLASS` is light grey.

    Returns:
        uint8 (256, 3).
    """
    numbers = torch.arange(256)
    colors = torch.zeros(256, 3, dtype=torch.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> channel) & 1) << (7 - bit)
        numbers = numbers >> 3
    colors[IGNORED_CLASS] = torch.tensor(IGNORED_COLOR)
    return colors.to(torch.uint8)


def overlay(picture: Tensor, class_map: Tensor, opacity: float = 0.6) -> Tensor:
    """A picture tinted by the class of each pixel.

    Args:
        picture: uint8 (3, height, width).
        class_map: (height, width) class numbers.
        opacity: Share of the class's colour.

    Returns:
        uint8 (3, height, width).
    """
    colors = class_colors()[class_map.long().cpu()].permute(2, 0, 1)  # (3, height, width)
    return (picture.float() * (1 - opacity) + colors.float() * opacity).round().to(torch.uint8)


def write_mask(class_map: Tensor, path: Path) -> None:
    """Write class numbers uint8 (height, width) as an 8-bit palette PNG: readers see numbers, viewers colours."""
    image = Image.fromarray(class_map.cpu().numpy()).convert("P")
    image.putpalette(class_colors().flatten().tolist())
    image.save(path)


def write_picture(picture: Tensor, path: Path) -> None:
    """Write a picture uint8 (3, height, width) as PNG."""
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(path)

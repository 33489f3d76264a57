"""What all drawings share: colours of classes, pictures from normalised images, panels side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mambarium.platform.data.image_samples import Normalization
from mambarium.tasks.batches import IGNORED_CLASS

IGNORED_COLOR = (224, 224, 224)
"""Colour of pixels that don't count."""


def class_colors() -> Tensor:
    """Pascal VOC's colours: class number's bits spread over red, green and blue, the highest bits first.

    Class 0 is black, as backgrounds mostly are 0; `IGNORED_CLASS` is light grey.

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


def picture_of(image: Tensor, normalization: Normalization) -> Tensor:
    """The picture that a normalised image was made of.

    Args:
        image: (3, height, width), normalised.
        normalization: How it was normalised.

    Returns:
        uint8 (3, height, width) on the CPU.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalization.mean, normalization.std))
    return (image.detach().float().cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)


def side_by_side(panels: Sequence[Tensor], least_side: int = 192) -> Tensor:
    """Pictures of one size next to each other, small ones enlarged by a whole number.

    Args:
        panels: uint8 (3, height, width) each.
        least_side: The smaller side of a panel is enlarged to at least about this.

    Returns:
        uint8 (3, height, width).
    """
    factor = max(1, least_side // min(panels[0].shape[-2:]))
    enlarged = [panel.repeat_interleave(factor, 1).repeat_interleave(factor, 2) for panel in panels]
    gap = torch.full((3, enlarged[0].shape[1], 4), 255, dtype=torch.uint8)
    row: list[Tensor] = []
    for panel in enlarged:
        row += [panel, gap]
    return torch.cat(row[:-1], dim=2)


def with_legend(picture: Tensor, names: Sequence[str], colors: Sequence[Sequence[int]]) -> Tensor:
    """A picture with coloured names below it.

    Args:
        picture: uint8 (3, height, width).
        names: What to write.
        colors: The colour of the patch beside each name.

    Returns:
        uint8 (3, height + legend, width).
    """
    row_height, width = 14, picture.shape[2]
    places: list[tuple[int, int]] = []
    left, row = 4, 0
    for name in names:
        length = 22 + 7 * len(name)
        if left + length > width and left > 4:
            left, row = 4, row + 1
        places.append((left, row * row_height))
        left += length
    legend = Image.new("RGB", (width, (row + 1) * row_height if names else 0), "white")
    draw = ImageDraw.Draw(legend)
    for name, color, (x, y) in zip(names, colors, places, strict=True):
        draw.rectangle((x, y + 2, x + 10, y + 11), fill=tuple(int(part) for part in color), outline="black")
        draw.text((x + 14, y + 1), name, fill="black")
    drawn = torch.from_numpy(np.array(legend, dtype=np.uint8)).permute(2, 0, 1)
    return torch.cat([picture, drawn], dim=1) if names else picture

"""What pictures of samples and predictions are made of: colours, captions, sheets, files."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

TILE_SIDES = (240, 480)
"""Range that an image's longer side is brought to before anything is drawn on it."""

LINE_HEIGHT = 14
"""Pixels of a line of text below an image."""

SHEET_GREY = 80

MASK_OPACITY = 0.5

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)


class CaptionLine(NamedTuple):
    """A line of text below an image."""

    text: str
    color: Color


def class_color(number: int) -> Color:
    """Return a colour for a class; neighbouring numbers get colours far apart."""
    hue = number * 0.618034 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (number // 7 % 2), 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def arrange(pictures: Sequence[Tensor], columns: int) -> Tensor:
    """Put pictures uint8 (3, height, width) of different sizes in rows on grey, so that dark ones have edges to see."""
    margin = 4
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    widths = [max(row[i].shape[2] for row in rows if i < len(row)) for i in range(min(columns, len(pictures)))]
    heights = [max(picture.shape[1] for picture in row) for row in rows]
    size = sum(heights) + margin * (len(rows) + 1), sum(widths) + margin * (len(widths) + 1)
    sheet = torch.full((3, *size), SHEET_GREY, dtype=torch.uint8)
    top = margin
    for row, height in zip(rows, heights, strict=True):
        left = margin
        for picture, width in zip(row, widths, strict=False):
            sheet[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
            left += width + margin
        top += height + margin
    return sheet


def enlarged(image: Tensor) -> Tensor:
    """Bring an image's longer side into `TILE_SIDES`, as uint8; small ones are repeated pixel by pixel.

    The image is (3, height, width), uint8 or floating point in 0 to 1.
    """
    if image.is_floating_point():
        image = image.clamp(0, 1).mul(255).round().to(torch.uint8)
    height, width = image.shape[-2:]
    side = max(height, width)
    if side < TILE_SIDES[0]:
        factor = -(-TILE_SIDES[0] // side)
        return image.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    if side > TILE_SIDES[1]:
        scale = TILE_SIDES[1] / side
        return F.resize(image, [max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)
    return image


def with_caption(picture: Tensor, lines: Sequence[CaptionLine]) -> Tensor:
    """Add lines of text below a picture uint8 (3, height, width), as many side by side as fit."""
    font = ImageFont.load_default()
    width = picture.shape[2]
    placed: list[tuple[int, int, CaptionLine]] = []
    left, row = 2, 0
    for line in lines:
        length = round(font.getlength(line.text)) + 8
        if left > 2 and left + length > width:
            left, row = 2, row + 1
        placed.append((left, row, line))
        left += length
    strip = Image.new("RGB", (width, LINE_HEIGHT * (row + 1)))
    draw = ImageDraw.Draw(strip)
    for left, row, line in placed:
        draw.text((left, LINE_HEIGHT * row + 1), line.text, fill=line.color, font=font)
    return torch.cat([picture, F.pil_to_tensor(strip)], dim=1)


def write_png(picture: Tensor, file: Path) -> None:
    """Write a picture, uint8 (3, height, width), to a file that does not exist yet; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as opened:
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(opened, "PNG")

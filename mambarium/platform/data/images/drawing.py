"""Samples as pictures: boxes, masks and class names drawn on images."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from mambarium.platform.data.images.image_samples import LabelledImage
from mambarium.tasks.batches import IGNORED_CLASS

TILE_SIDES = (240, 480)
"""Range that an image's longer side is brought to before anything is drawn on it."""

LINE_HEIGHT = 14
"""Pixels of a line of text below an image."""

SHEET_GREY = 80

MASK_OPACITY = 0.5

BACKGROUND = "background"
"""Name of a class that is not painted."""

Color = tuple[int, int, int]


class CaptionLine(NamedTuple):
    """A line of text below an image."""

    text: str
    color: Color


def class_color(number: int) -> Color:
    """A colour for a class; neighbouring numbers get colours far apart."""
    hue = number * 0.618034 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (number // 7 % 2), 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_classified(image: Tensor, class_name: str) -> Tensor:
    """An image with its class below.

    Args:
        image: (3, height, width), uint8 or floating point in 0 to 1.
        class_name: The name of its class.

    Returns:
        uint8 (3, height, width).
    """
    return with_caption(enlarged(as_bytes(image)), [CaptionLine(class_name, (255, 255, 255))])


def draw_objects(
    image: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor, masks: Tensor | None, class_names: Sequence[str]
) -> Tensor:
    """An image with boxes, masks and class names on it.

    Args:
        image: (3, height, width), uint8 or floating point in 0 to 1.
        boxes: (objects, 4) corners x1, y1, x2, y2.
        labels: (objects,) class numbers.
        crowd: (objects,) boolean.
        masks: (objects, height, width) boolean, if there are any.
        class_names: One name per class.

    Returns:
        uint8 (3, height, width).
    """
    drawn = enlarged(as_bytes(image))
    scale = drawn.shape[1] / image.shape[1], drawn.shape[2] / image.shape[2]
    colors = [class_color(int(label)) for label in labels]
    if masks is not None and len(masks):
        large = F.resize(masks.to(torch.uint8), list(drawn.shape[1:]), F.InterpolationMode.NEAREST).bool()
        drawn = draw_segmentation_masks(drawn, large, alpha=MASK_OPACITY, colors=colors)
    if len(boxes):
        names = [
            class_names[int(label)] + (" (crowd)" if is_crowd else "")
            for label, is_crowd in zip(labels, crowd.tolist(), strict=True)
        ]
        large_boxes = boxes * boxes.new_tensor([scale[1], scale[0], scale[1], scale[0]])
        drawn = draw_bounding_boxes(drawn, large_boxes, names, colors=colors, width=1, fill_labels=True)
    count = f"{len(labels)} object{'' if len(labels) == 1 else 's'}"
    return with_caption(drawn, [CaptionLine(count, (255, 255, 255))])


def draw_classes(image: Tensor, mask: Tensor, class_names: Sequence[str]) -> Tensor:
    """An image with the class of each pixel as a colour on it, and the classes that occur below.

    Pixels that don't count, and those of a class that is called background, stay as they are.

    Args:
        image: (3, height, width), uint8 or floating point in 0 to 1.
        mask: (height, width) class numbers.
        class_names: One name per class.

    Returns:
        uint8 (3, height, width).
    """
    drawn = enlarged(as_bytes(image))
    large = F.resize(mask[None].to(torch.uint8), list(drawn.shape[1:]), F.InterpolationMode.NEAREST)[0]
    captions = [CaptionLine(class_names[number], class_color(number)) for number in painted_classes(large, class_names)]
    return with_caption(paint_classes(drawn, large, class_names), captions)


def paint_classes(image: Tensor, mask: Tensor, class_names: Sequence[str]) -> Tensor:
    """An image uint8 (3, height, width) with the colours of `painted_classes` of a mask (height, width) on it."""
    classes = painted_classes(mask, class_names)
    if not classes:
        return image
    masks = torch.stack([mask == number for number in classes])
    return draw_segmentation_masks(image, masks, alpha=MASK_OPACITY, colors=[class_color(n) for n in classes])


def painted_classes(mask: Tensor, class_names: Sequence[str]) -> list[int]:
    """The classes of a mask that have a colour: not pixels that don't count, nor a class that is called background."""
    numbers = mask.unique().tolist()
    return [number for number in numbers if number != IGNORED_CLASS and class_names[number] != BACKGROUND]


def draw_sample(sample: object, class_names: Sequence[str]) -> Tensor:
    """A sample of a data module of images as a picture.

    Args:
        sample: A `LabelledImage`, `DetectionSample` or `SegmentationSample`.
        class_names: One name per class.

    Returns:
        uint8 (3, height, width).
    """
    if isinstance(sample, LabelledImage):
        return draw_classified(sample.image, class_names[sample.label])
    assert isinstance(sample, dict)
    plain = {name: value.as_subclass(Tensor) for name, value in sample.items() if isinstance(value, Tensor)}
    if "mask" in plain:
        return draw_classes(plain["image"], plain["mask"], class_names)
    return draw_objects(
        plain["image"], plain["boxes"], plain["labels"], plain["crowd"], plain.get("masks"), class_names
    )


def arrange(pictures: Sequence[Tensor], columns: int) -> Tensor:
    """Pictures of different sizes in rows, on grey, so that dark ones have visible edges.

    Args:
        pictures: uint8 (3, height, width) each.
        columns: Pictures in a row.

    Returns:
        uint8 (3, height, width).
    """
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


def as_bytes(image: Tensor) -> Tensor:
    """An image as uint8; floating-point ones are taken to be in 0 to 1."""
    return image.clamp(0, 1).mul(255).round().to(torch.uint8) if image.is_floating_point() else image


def enlarged(image: Tensor) -> Tensor:
    """Brings an image's longer side into `TILE_SIDES`; small ones are repeated pixel by pixel."""
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
    """A picture with lines of text below, as many side by side as fit."""
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

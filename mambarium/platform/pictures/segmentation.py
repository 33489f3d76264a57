"""Class maps drawn over images, and as palette PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from mambarium.platform.data.image_samples import Normalization
from mambarium.platform.pictures.canvas import class_colors, picture_of, side_by_side, with_legend
from mambarium.tasks.batches import SegmentationBatch


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


def draw_segmentation(
    batch: SegmentationBatch, predictions: Sequence[Tensor], class_names: Sequence[str], normalization: Normalization
) -> list[Tensor]:
    """For each image of a batch: the image, the truth and the prediction, with the names of the classes in them.

    Args:
        batch: The batch, original masks included.
        predictions: For each image the predicted classes (original height, original width).
        class_names: One name per class.
        normalization: How the images were normalised.

    Returns:
        uint8 (3, height, width) each.
    """
    drawn: list[Tensor] = []
    colors = class_colors().tolist()
    for index, predicted in enumerate(predictions):
        truth = batch["original_mask"][index].cpu()
        height, width = (int(length) for length in batch["valid_size"][index])
        picture = picture_of(batch["image"][index, :, :height, :width], normalization)
        picture = resize(picture, list(truth.shape), antialias=True)
        panels = [picture, overlay(picture, truth), overlay(picture, predicted)]
        found = sorted(set(truth.unique().tolist()) | set(predicted.unique().tolist()))
        shown = [number for number in found if number < len(class_names)]
        row = side_by_side(panels)
        drawn.append(with_legend(row, [class_names[number] for number in shown], [colors[number] for number in shown]))
    return drawn


def write_mask(class_map: Tensor, path: Path) -> None:
    """Write class numbers as an 8-bit palette PNG: readers see the numbers, viewers the colours.

    Args:
        class_map: uint8 (height, width).
        path: The file.
    """
    image = Image.fromarray(class_map.cpu().numpy(), mode="P")
    image.putpalette(class_colors().flatten().tolist())
    image.save(path)


def write_picture(picture: Tensor, path: Path) -> None:
    """Write a picture uint8 (3, height, width) as PNG."""
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(path)

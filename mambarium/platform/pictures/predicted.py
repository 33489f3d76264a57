"""A sample with its truth, and beside it the same image with what a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from mambarium.platform.data.images.drawing import (
    MASK_OPACITY,
    CaptionLine,
    arrange,
    class_color,
    draw_classes,
    draw_sample,
    enlarged,
    with_caption,
)
from mambarium.platform.data.images.image_samples import LabelledImage
from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.detection.mask_encoding import paste_masks

SHOWN_SCORE = 0.4
"""Less sure detections are not drawn."""

RIGHT, WRONG = (96, 255, 96), (255, 96, 96)
"""Colours of a class that is the true one, and of one that isn't."""

SIDE_PER_LINE_WIDTH = 400
"""Pixels of an image's longer side for each pixel of the width of lines."""


def class_below_truth(sample: LabelledImage, logits: Tensor, class_names: Sequence[str]) -> Tensor:
    """Draws a sample of classification, its class below, and below that the likeliest one, green if it is the same.

    Args:
        sample: The sample, as the data set gives it.
        logits: (classes,) as a model gives them.
        class_names: One name per class.

    Returns:
        uint8 (3, height, width).
    """
    probability, number = logits.float().softmax(dim=0).max(dim=0)
    found = f"found {class_names[int(number)]} {float(probability):.2f}"
    line = CaptionLine(found, RIGHT if int(number) == sample.label else WRONG)
    return with_caption(draw_sample(sample, class_names), [line])


def segmentation_beside_truth(sample: Any, predicted: Tensor, class_names: Sequence[str]) -> Tensor:
    """Draws a sample of segmentation.

    Args:
        sample: The sample, as the data set gives it.
        predicted: The class of each pixel (original height, original width).
        class_names: One name per class.

    Returns:
        uint8 (3, height, width).
    """
    image = sample["image"].as_subclass(Tensor)
    fitted = F.resize(predicted[None].cpu(), list(image.shape[-2:]), F.InterpolationMode.NEAREST)[0]
    return arrange([draw_sample(sample, class_names), draw_classes(image, fitted, class_names)], columns=2)


def detections_beside_truth(sample: Any, found: Detections, class_names: Sequence[str]) -> Tensor:
    """Draws a sample of detection.

    Args:
        sample: The sample, as the data set gives it.
        found: What a detector found, in the original image's coordinates.
        class_names: One name per class.

    Returns:
        uint8 (3, height, width).
    """
    image = enlarged(sample["image"].as_subclass(Tensor))
    height, width = image.shape[-2:]
    original_height, original_width = sample["original_size"]
    scale = found.boxes.new_tensor([width / original_width, height / original_height]).repeat(2)
    predicted = draw_detections(image, found._replace(boxes=found.boxes * scale), class_names)
    return arrange([draw_sample(sample, class_names), predicted], columns=2)


def draw_detections(image: Tensor, found: Detections, class_names: Sequence[str]) -> Tensor:
    """Draws the surer detections on an image, with their scores.

    Args:
        image: uint8 (3, height, width).
        found: What a detector found, in the image's coordinates.
        class_names: One name per class.

    Returns:
        uint8 (3, height, width), the image's size.
    """
    shown = found.scores.cpu() >= SHOWN_SCORE
    boxes, labels = found.boxes.float().cpu()[shown], found.labels.cpu()[shown]
    size = (image.shape[-2], image.shape[-1])
    if not len(boxes):
        return image
    colors = [class_color(int(label)) for label in labels]
    if found.masks is not None:
        masks = paste_masks(found.masks.cpu()[shown], boxes, size)
        image = draw_segmentation_masks(image, masks, alpha=MASK_OPACITY, colors=colors)
    scores = found.scores.cpu()[shown].tolist()
    names = [f"{class_names[int(label)]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    width = max(1, max(size) // SIDE_PER_LINE_WIDTH)
    return draw_bounding_boxes(image, boxes, names, colors=colors, width=width, fill_labels=True)

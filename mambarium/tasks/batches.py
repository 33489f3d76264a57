"""What a batch is, one typed dict per task: data modules make them, tasks read them."""

from typing import Any, NotRequired, TypedDict

from torch import Tensor

IGNORED_TARGET = -100
"""Target value of positions at which nothing is to be predicted."""


class ImageBatch(TypedDict):
    """Images with one class each.

    Attributes:
        image: (batch, 3, height, width), normalised floating point.
        label: (batch,) class numbers.
    """

    image: Tensor
    label: Tensor


class TokenBatch(TypedDict):
    """Windows of text.

    Attributes:
        tokens: (batch, length) token numbers.
        targets: (batch, length) the token that follows each position, `IGNORED_TARGET` where none is predicted.
        num_bytes: (batch,) raw bytes that the counted targets of each window stand for.
    """

    tokens: Tensor
    targets: Tensor
    num_bytes: Tensor


class PaddedImages(TypedDict):
    """Images of different sizes in one tensor, each in its upper left corner, zeros beside and below it.

    Attributes:
        image: (batch, 3, height, width), normalised floating point.
        valid_size: (batch, 2) height and width of each image before padding, in pixels.
        original_size: (batch, 2) height and width of each image as it was read, in pixels; results are reported in
            its coordinates.
        image_id: (batch,) the number of each image in its data set.
    """

    image: Tensor
    valid_size: Tensor
    original_size: Tensor
    image_id: Tensor


def rows_of_equal_size(sizes: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Which images of a batch can be looked at together without any being padded to the size of another.

    Args:
        sizes: (batch, numbers) what has to be alike, such as height and width.

    Returns:
        The rows of each size, in the order of the sizes' first rows.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, size in enumerate(sizes.tolist()):
        rows.setdefault(tuple(size), []).append(row)
    return rows


class RunLengths(TypedDict):
    """A mask in COCO's compressed run-length encoding.

    Attributes:
        size: Height and width.
        counts: The runs, as text.
    """

    size: list[int]
    counts: str


class DetectionBatch(PaddedImages):
    """Images with any number of objects each.

    Attributes:
        boxes: For each image (objects, 4) corners x1, y1, x2, y2 in pixels of the valid image.
        labels: For each image (objects,) class numbers from 0.
        crowd: For each image (objects,) whether a box is a crowd: never trained on, matched without penalty in
            evaluation.
        area: For each image (objects,) area in pixels of the original image, by which objects count as small, medium
            or large.
        masks: For each image (objects, height, width) boolean, padded as the images are; None where the data has none.
        original_masks: For each image the objects' masks at its original size, if the data has them: evaluated on
            instead of enlarged `masks`.
        negative_classes: For each image, in data of the LVIS kind, classes known not to be in it: with those that are,
            the only ones evaluated there.
        partial_classes: For each image, in data of the LVIS kind, classes of which not every object is marked:
            detections without an object don't count there.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    crowd: list[Tensor]
    area: list[Tensor]
    masks: list[Tensor] | None
    original_masks: NotRequired[list[list[RunLengths]]]
    negative_classes: NotRequired[list[list[int]]]
    partial_classes: NotRequired[list[list[int]]]


class SegmentationBatch(PaddedImages):
    """Images with a class for each pixel.

    Attributes:
        mask: (batch, height, width) class numbers, `IGNORED_CLASS` where none counts and in the padding.
        original_mask: For each image (original height, original width); empty in training. Metrics are taken on it.
    """

    mask: Tensor
    original_mask: list[Tensor]


IGNORED_CLASS = 255
"""Class number of pixels that count neither in the loss nor in the metrics."""


class MultiTaskBatch(TypedDict):
    """Batches of several tasks for one step.

    Attributes:
        tasks: The batch of each task that has its turn, by the task's name.
        shared_images: Whether all of them are about the same images, so that one pass through the backbone serves all.
    """

    tasks: dict[str, Any]
    shared_images: bool

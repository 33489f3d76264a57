"""What a detector takes and returns, and the choice among overlapping boxes that all of them end with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from mambarium.backbones.contract import FeatureInfo, VisionFeatures


class ImageSizes(NamedTuple):
    """Sizes of a batch of images in one tensor.

    Attributes:
        padded: Height and width of the tensor.
        valid: (batch, 2) height and width of each image in it.
    """

    padded: tuple[int, int]
    valid: Tensor

    def as_list(self) -> list[tuple[int, int]]:
        """Height and width of each image."""
        return [(height, width) for height, width in self.valid.tolist()]


class Objects(NamedTuple):
    """What there is to be found in an image.

    Attributes:
        boxes: (objects, 4) corners x1, y1, x2, y2 in pixels.
        labels: (objects,) class numbers from 0.
        masks: (objects, height, width) boolean, or None.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None


class Detections(NamedTuple):
    """What was found in an image, the surest first.

    Attributes:
        boxes: (detections, 4) corners x1, y1, x2, y2 in pixels.
        scores: (detections,) from 0 to 1.
        labels: (detections,) class numbers from 0.
        masks: (detections, rows, columns) probability of each cell of the box to belong to the object, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Detector(nn.Module, ABC):
    """Neck and head: from a vision backbone's features to objects.

    A subclass takes the backbone's `feature_info` and the number of classes as its first two arguments.

    Attributes:
        divisor: Height and width of images should be multiples of this; tasks pad.
        predicts_masks: Whether detections come with masks.
        detections_per_image: Most detections of an image; None, as here, for no limit.
    """

    divisor: int
    detections_per_image: int | None = None
    predicts_masks: bool = False

    @abstractmethod
    def losses(self, features: VisionFeatures, sizes: ImageSizes, objects: list[Objects]) -> dict[str, Tensor]:
        """Training losses by name, scalars in float32. The detector must be in training mode."""

    @abstractmethod
    def detect(self, features: VisionFeatures, sizes: ImageSizes) -> list[Detections]:
        """Return what is in each image. The detector must be in evaluation mode."""


DetectorFactory = Callable[[Sequence[FeatureInfo], int], Detector]
"""Makes a detector from a backbone's `feature_info` and a number of classes; in YAML: `class_path: FCOS` with its
other arguments as `init_args`."""


class Limits(NamedTuple):
    """How many detections are kept, and which.

    Attributes:
        score_threshold: Less sure ones are dropped.
        nms_threshold: Overlap (IoU) with a surer one of the same class from which a detection is dropped.
        candidates_per_level: Most detections of a pyramid level before overlapping ones are dropped.
        detections_per_image: Most detections of an image after that.
    """

    score_threshold: float
    nms_threshold: float
    candidates_per_level: int
    detections_per_image: int


def select_detections(
    scores: Tensor, boxes: Tensor, level_lengths: Sequence[int], size: tuple[int, int], limits: Limits
) -> Detections:
    """Return the surest boxes of an image that don't overlap, class by class, clipped to its height and width.

    Scores are (boxes, classes) from 0 to 1, boxes (boxes, 4) or, one per class, (boxes, classes, 4) corners in pixels,
    of pyramid levels of these lengths one after the other.
    """
    num_classes = scores.shape[1]
    kept_boxes, kept_scores, kept_labels = [], [], []
    for level_scores, level_boxes in zip(
        scores.split(list(level_lengths)), boxes.split(list(level_lengths)), strict=True
    ):
        flat = level_scores.flatten()  # (boxes * classes,)
        candidates = torch.nonzero(flat > limits.score_threshold)[:, 0]
        candidate_scores, order = flat[candidates].topk(min(len(candidates), limits.candidates_per_level))
        candidates = candidates[order]
        labels = candidates % num_classes
        index = candidates // num_classes
        kept_boxes.append(level_boxes[index] if level_boxes.ndim == 2 else level_boxes[index, labels])
        kept_scores.append(candidate_scores)
        kept_labels.append(labels)
    all_boxes = clip_boxes_to_image(torch.cat(kept_boxes), size)
    all_scores, all_labels = torch.cat(kept_scores), torch.cat(kept_labels)
    solid = ((all_boxes[:, 2:] - all_boxes[:, :2]) > 1e-2).all(dim=1)
    all_boxes, all_scores, all_labels = all_boxes[solid], all_scores[solid], all_labels[solid]
    keep = batched_nms(all_boxes, all_scores, all_labels, limits.nms_threshold)[: limits.detections_per_image]
    return Detections(all_boxes[keep], all_scores[keep], all_labels[keep])

"""FCOS: each cell of a pyramid level predicts class, centredness and its distances to the four sides of a box."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOSHead

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.errors import InputError
from mambarium.tasks.dense.pyramid import FeaturePyramid
from mambarium.tasks.detection.anchors import cells_inside, center_boxes, level_lengths
from mambarium.tasks.detection.detector import Detections, Detector, ImageSizes, Limits, Objects, select_detections

IMPOSSIBLE = -50.0
"""Logit of classes in the padding: no probability and no gradient."""


class FCOS(Detector):
    """Fully convolutional one-stage detector without anchors (Tian et al. 2019, arXiv 1904.01355, 2006.09214).

    Head and losses (focal, GIoU, centredness) are torchvision's. Cells stand for their centres; the cells of the level
    of stride s learn objects whose farthest side is 4s to 8s away, the first level all smaller, the last all larger.

    Args:
        feature_info: Channels and stride of each map of the backbone; the task gives it.
        num_classes: Number of classes; the task gives it.
        strides: Strides of the pyramid's levels in pixels.
        channels: Channels of the pyramid and the head, a multiple of 32.
        num_convs: Convolutions of each of the head's two branches: 4 as published, 1 or 2 for small data.
        center_radius: Cells within this many strides of an object's centre are trained to find it.
        score_threshold: Less sure detections are dropped.
        nms_threshold: Overlap (IoU) with a surer detection of the same class from which one is dropped.
        candidates_per_level: Most detections of a level before overlapping ones are dropped.
        detections_per_image: Most detections of an image.

    Raises:
        InputError: If the channels are no multiple of 32, or the strides don't fit the backbone.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        channels: int = 128,
        num_convs: int = 2,
        center_radius: float = 1.5,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        candidates_per_level: int = 1000,
        detections_per_image: int = 100,
    ) -> None:
        super().__init__()
        if channels < 32 or channels % 32:
            raise InputError(f"FCOS's channels is {channels}; give a multiple of 32, the number of its norms' groups")
        self.pyramid = FeaturePyramid(feature_info, strides, channels)
        self.head = FCOSHead(channels, 1, num_classes, num_convs)
        self.divisor = self.pyramid.divisor
        self.strides = tuple(strides)
        self.center_radius = center_radius
        self.limits = Limits(score_threshold, nms_threshold, candidates_per_level, detections_per_image)
        self.detections_per_image = detections_per_image

    def _outputs(self, features: VisionFeatures, sizes: ImageSizes) -> dict[str, Tensor]:
        """Return the head's float32 outputs, each (batch, cells, values), nothing found in the padding."""
        outputs = self.head(self.pyramid(features, sizes.padded, sizes.valid))
        outputs = {name: output.float() for name, output in outputs.items()}
        padding = ~cells_inside(sizes.valid, sizes.padded, self.strides)  # (batch, cells)
        outputs["cls_logits"] = outputs["cls_logits"].masked_fill(padding[..., None], IMPOSSIBLE)
        return outputs

    def losses(self, features: VisionFeatures, sizes: ImageSizes, objects: list[Objects]) -> dict[str, Tensor]:
        outputs = self._outputs(features, sizes)
        cells = center_boxes(sizes.padded, self.strides, sizes.valid.device)
        lengths = level_lengths(sizes.padded, self.strides)
        matches = [match_cells(cells, lengths, each.boxes, self.center_radius) for each in objects]
        targets = [{"boxes": each.boxes, "labels": each.labels} for each in objects]
        losses = self.head.compute_loss(targets, outputs, [cells] * len(objects), matches)
        return {
            "classification": losses["classification"],
            "boxes": losses["bbox_regression"],
            "centredness": losses["bbox_ctrness"],
        }

    def detect(self, features: VisionFeatures, sizes: ImageSizes) -> list[Detections]:
        outputs = self._outputs(features, sizes)
        cells = center_boxes(sizes.padded, self.strides, sizes.valid.device)
        lengths = level_lengths(sizes.padded, self.strides)
        scores = (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
        boxes = self.head.box_coder.decode(outputs["bbox_regression"], cells)  # (batch, cells, 4)
        return [
            select_detections(image_scores, image_boxes, lengths, size, self.limits)
            for image_scores, image_boxes, size in zip(scores, boxes, sizes.as_list(), strict=True)
        ]


def match_cells(cells: Tensor, lengths: Sequence[int], boxes: Tensor, center_radius: float) -> Tensor:
    """Return the object (cells,) that each cell is trained to find, the smallest that fits; -1 for none.

    Cells are (cells, 4) squares of the stride's size around their centres, as many in each level as `lengths` says,
    boxes (objects, 4) corners in pixels.
    """
    if not len(boxes):
        return torch.full((len(cells),), -1, device=cells.device)
    centers = (cells[:, :2] + cells[:, 2:]) / 2
    strides = cells[:, 2] - cells[:, 0]
    box_centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = (centers[:, None] - box_centers).abs().amax(dim=2)  # (cells, objects)
    sides = torch.cat([centers[:, None] - boxes[:, :2], boxes[:, 2:] - centers[:, None]], dim=2)
    reach = sides.amax(dim=2)
    smallest, largest = strides * 4, strides * 8
    smallest[: lengths[0]] = 0
    largest[len(cells) - lengths[-1] :] = float("inf")
    fits = (
        (distances < center_radius * strides[:, None])
        & (sides.amin(dim=2) > 0)
        & (reach > smallest[:, None])
        & (reach < largest[:, None])
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    area, match = torch.where(fits, areas, float("inf")).min(dim=1)
    return torch.where(area.isinf(), -1, match)

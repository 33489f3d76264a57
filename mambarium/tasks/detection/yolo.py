"""The decoupled anchor-free detector of the YOLO family, for backbones of the Mamba-YOLO line and any other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.convolutions import ConvNormAct
from mambarium.tasks.detection.anchors import cells_inside, center_boxes
from mambarium.tasks.detection.detector import Detections, Detector, ImageSizes, Limits, Objects, select_detections
from mambarium.tasks.detection.fcos import IMPOSSIBLE
from mambarium.tasks.detection.path_aggregation import PathAggregation
from mambarium.tasks.detection.task_alignment import assign

IMAGE_SIZE = 640
"""Size of images that the classes' biases are started for, as the family's recipes train."""


class YOLO(Detector):
    """Path aggregation neck and a head with branches of their own for classes and boxes, as in YOLOv8 and Mamba-YOLO.

    Each cell predicts classes and, as distributions over bins (Li et al. 2020, arXiv 2006.04388), its distances to the
    four sides of a box. Cells are assigned to objects by task alignment. Losses: binary cross-entropy, complete IoU and
    the distributions' cross-entropy.

    Args:
        feature_info: Channels and stride of each map of the backbone; the task gives it.
        num_classes: Number of classes; the task gives it.
        strides: Strides of the levels in pixels, the coarsest map of the backbone the last.
        channels: Channels of each level, even.
        depth: Bottlenecks of each block of the neck, or its scans.
        state_space_neck: Whether the neck's blocks are Mamba-YOLO's, with scans, instead of YOLOv8's, with bottlenecks.
        bins: Number of bins of a distance, one stride each.
        cells_per_object: Most cells that learn an object.
        weights: Weights of the losses of classes, boxes and distributions.
        score_threshold: Less sure detections are dropped.
        nms_threshold: Overlap (IoU) with a surer detection of the same class from which one is dropped.
        detections_per_image: Most detections of an image.

    Raises:
        InputError: If strides, channels or depth don't fit each other or the backbone.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        strides: tuple[int, ...] = (8, 16, 32),
        channels: tuple[int, ...] = (64, 128, 256),
        depth: int = 1,
        state_space_neck: bool = False,
        bins: int = 16,
        cells_per_object: int = 10,
        weights: tuple[float, float, float] = (0.5, 7.5, 1.5),
        score_threshold: float = 0.001,
        nms_threshold: float = 0.7,
        detections_per_image: int = 300,
    ) -> None:
        super().__init__()
        self.neck = PathAggregation(feature_info, strides, channels, depth, state_space_neck)
        self.divisor = self.neck.divisor
        self.strides = tuple(strides)
        self.bins = bins
        self.cells_per_object = cells_per_object
        self.weights = tuple(weights)
        box_width = max(16, channels[0] // 4, 4 * bins)
        class_width = max(channels[0], min(num_classes, 100))
        self.box_branches = nn.ModuleList(_branch(count, box_width, 4 * bins) for count in channels)
        self.class_branches = nn.ModuleList(_branch(count, class_width, num_classes) for count in channels)
        for branch, stride in zip(self.class_branches, strides, strict=True):
            # As if five objects were in an image of the recipes' size.
            cells_of_a_class = num_classes * (IMAGE_SIZE / stride) ** 2
            _set_bias(branch, math.log(5 / cells_of_a_class))
        for branch in self.box_branches:
            _set_bias(branch, 1.0)
        self.limits = Limits(score_threshold, nms_threshold, 30_000, detections_per_image)
        self.detections_per_image = detections_per_image

    def _outputs(self, features: VisionFeatures, sizes: ImageSizes) -> tuple[Tensor, Tensor]:
        """Class logits (batch, cells, classes) and bins of distances (batch, cells, 4, bins), in float32."""
        levels = self.neck(features, sizes.padded, sizes.valid)
        logits = torch.cat([branch(x).flatten(2) for branch, x in zip(self.class_branches, levels, strict=True)], dim=2)
        bins = torch.cat([branch(x).flatten(2) for branch, x in zip(self.box_branches, levels, strict=True)], dim=2)
        padding = ~cells_inside(sizes.valid, sizes.padded, self.strides)  # (batch, cells)
        logits = logits.transpose(1, 2).float().masked_fill(padding[..., None], IMPOSSIBLE)
        return logits, bins.transpose(1, 2).float().unflatten(2, (4, self.bins))

    def _cells(self, sizes: ImageSizes) -> tuple[Tensor, Tensor]:
        """Centre (cells, 2) and stride (cells, 1) of each cell in pixels."""
        squares = center_boxes(sizes.padded, self.strides, sizes.valid.device)
        return (squares[:, :2] + squares[:, 2:]) / 2, squares[:, 2:3] - squares[:, :1]

    def _boxes(self, bins: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
        """Corners (batch, cells, 4) of the boxes at the distributions' means."""
        numbers = torch.arange(self.bins, dtype=bins.dtype, device=bins.device)
        distances = (bins.softmax(dim=3) @ numbers) * strides  # (batch, cells, 4)
        return torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1)

    def losses(self, features: VisionFeatures, sizes: ImageSizes, objects: list[Objects]) -> dict[str, Tensor]:
        logits, bins = self._outputs(features, sizes)
        centers, strides = self._cells(sizes)
        boxes = self._boxes(bins, centers, strides)
        scores = logits.sigmoid()
        targets = torch.zeros_like(logits)
        box_loss, bin_loss = boxes.sum() * 0, bins.sum() * 0
        for index, each in enumerate(objects):
            owners, aims = assign(centers, scores[index], boxes[index], each.boxes, each.labels, self.cells_per_object)
            cells = torch.nonzero(owners >= 0)[:, 0]
            owner, weight = owners[cells], aims[cells]
            targets[index, cells, each.labels[owner]] = weight
            wanted = each.boxes[owner]
            box_loss = box_loss + (complete_box_iou_loss(boxes[index, cells], wanted) * weight).sum()
            distances = torch.cat([centers[cells] - wanted[:, :2], wanted[:, 2:] - centers[cells]], dim=1)
            bin_loss = bin_loss + (distribution_loss(bins[index, cells], distances / strides[cells]) * weight).sum()
        total = targets.sum().clamp(min=1.0)
        classification = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        of_classes, of_boxes, of_bins = self.weights
        return {
            "classification": of_classes * classification / total,
            "boxes": of_boxes * box_loss / total,
            "distributions": of_bins * bin_loss / total,
        }

    def detect(self, features: VisionFeatures, sizes: ImageSizes) -> list[Detections]:
        logits, bins = self._outputs(features, sizes)
        boxes = self._boxes(bins, *self._cells(sizes))
        return [
            select_detections(image_scores, image_boxes, [len(image_boxes)], size, self.limits)
            for image_scores, image_boxes, size in zip(logits.sigmoid(), boxes, sizes.as_list(), strict=True)
        ]


def distribution_loss(bins: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy (cells,) with the two bins next to each distance, by nearness; the mean of the four sides.

    Bins are (cells, 4, bins) logits, distances (cells, 4) in strides.
    """
    last = bins.shape[2] - 1
    distances = distances.clamp(0, last - 0.01)
    lower = distances.floor().long()
    share = distances - lower
    log_shares = bins.log_softmax(dim=2)
    below = log_shares.gather(2, lower[..., None])[..., 0]
    above = log_shares.gather(2, lower[..., None] + 1)[..., 0]
    return -(below * (1 - share) + above * share).mean(dim=1)


def _branch(channels: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(channels, width, 3), ConvNormAct(width, width, 3), nn.Conv2d(width, outputs, 1))


def _set_bias(branch: nn.Module, value: float) -> None:
    assert isinstance(branch, nn.Sequential) and isinstance(branch[-1], nn.Conv2d) and branch[-1].bias is not None
    nn.init.constant_(branch[-1].bias, value)

"""RetinaNet: each anchor of a pyramid level predicts classes and corrections of its box."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.private_names.torchvision import Matcher
from mambarium.tasks.dense.pyramid import FeaturePyramid
from mambarium.tasks.detection.anchors import GridAnchors, cells_inside, level_lengths
from mambarium.tasks.detection.detector import Detections, Detector, ImageSizes, Limits, Objects, select_detections
from mambarium.tasks.detection.fcos import IMPOSSIBLE


class RetinaNet(Detector):
    """One-stage detector with anchors and focal loss (Lin et al. 2017, arXiv 1708.02002).

    Head, anchors, matching and losses are torchvision's. Each cell has three sizes (times 1, 2^(1/3), 2^(2/3)) of each
    aspect ratio.

    Args:
        feature_info: Channels and stride of each map of the backbone; the task gives it.
        num_classes: Number of classes; the task gives it.
        strides: Strides of the pyramid's levels in pixels.
        channels: Channels of the pyramid and the head.
        anchor_sizes: Smallest anchor of each level, square root of its area in pixels.
        aspect_ratios: Height by width of the anchors.
        positive_iou: Anchors that overlap an object at least so far learn to find it.
        negative_iou: Anchors that overlap no object so far learn that there is none; those between learn nothing.
        score_threshold: Less sure detections are dropped.
        nms_threshold: Overlap (IoU) with a surer detection of the same class from which one is dropped.
        candidates_per_level: Most detections of a level before overlapping ones are dropped.
        detections_per_image: Most detections of an image.

    Raises:
        InputError: If the strides don't fit the backbone or the anchors' sizes.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        channels: int = 256,
        anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512),
        aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        candidates_per_level: int = 1000,
        detections_per_image: int = 100,
    ) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(feature_info, strides, channels)
        self.divisor = self.pyramid.divisor
        self.strides = tuple(strides)
        sizes = [[size * 2 ** (third / 3) for third in range(3)] for size in anchor_sizes]
        self.anchors = GridAnchors(strides, sizes, aspect_ratios)
        self.anchors_per_cell = 3 * len(aspect_ratios)
        self.head = RetinaNetHead(channels, self.anchors_per_cell, num_classes)
        self.matcher = Matcher(positive_iou, negative_iou, allow_low_quality_matches=True)
        self.limits = Limits(score_threshold, nms_threshold, candidates_per_level, detections_per_image)
        self.detections_per_image = detections_per_image

    def _outputs(self, features: VisionFeatures, sizes: ImageSizes) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the head's float32 outputs (batch, anchors, values), the anchors (anchors, 4), which are padding."""
        levels = self.pyramid(features, sizes.padded, sizes.valid)
        outputs = {name: output.float() for name, output in self.head(levels).items()}
        padding = ~cells_inside(sizes.valid, sizes.padded, self.strides, self.anchors_per_cell)  # (batch, anchors)
        outputs["cls_logits"] = outputs["cls_logits"].masked_fill(padding[..., None], IMPOSSIBLE)
        return outputs, self.anchors(ImageList(levels[0], [sizes.padded]), levels)[0], padding

    def losses(self, features: VisionFeatures, sizes: ImageSizes, objects: list[Objects]) -> dict[str, Tensor]:
        outputs, anchors, padding = self._outputs(features, sizes)
        # Below every overlap, 0 included: an object always matches the anchors that overlap it most.
        matches = [
            self.matcher(box_iou(each.boxes, anchors).masked_fill(of_image, -1.0))
            if len(each.boxes)
            else torch.full((len(anchors),), -1, device=anchors.device)
            for each, of_image in zip(objects, padding, strict=True)
        ]
        targets = [{"boxes": each.boxes, "labels": each.labels} for each in objects]
        losses = self.head.compute_loss(targets, outputs, [anchors] * len(objects), matches)
        return {"classification": losses["classification"], "boxes": losses["bbox_regression"]}

    def detect(self, features: VisionFeatures, sizes: ImageSizes) -> list[Detections]:
        outputs, anchors, _ = self._outputs(features, sizes)
        lengths = level_lengths(sizes.padded, self.strides, self.anchors_per_cell)
        coder = self.head.regression_head.box_coder
        return [
            select_detections(logits.sigmoid(), coder.decode_single(codes, anchors), lengths, size, self.limits)
            for logits, codes, size in zip(
                outputs["cls_logits"], outputs["bbox_regression"], sizes.as_list(), strict=True
            )
        ]

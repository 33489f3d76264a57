"""Faster R-CNN and Mask R-CNN: proposals, then class, box and mask of each."""

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.tasks.dense.pyramid import FeaturePyramid
from mambarium.tasks.detection.detector import Detections, Detector, ImageSizes, Objects
from mambarium.tasks.detection.regions import (
    DEFAULT_BOXES,
    DEFAULT_MASKS,
    DEFAULT_PROPOSALS,
    BoxPredictor,
    BoxSettings,
    MaskBranch,
    MaskSettings,
    ProposalSettings,
    RegionPooling,
    box_head,
    masks_of,
    proposal_network,
    region_inputs,
    region_targets,
)


class FasterRCNN(Detector):
    """Two-stage detector on a feature pyramid (Ren et al. 2015, arXiv 1506.01497; Lin et al. 2017, 1612.03144).

    Proposals, matching, sampling and losses are torchvision's; pooling is RoIAlign with half-pixel alignment.

    Args:
        feature_info: Channels and stride of each map of the backbone; the task gives it.
        num_classes: Number of classes; the task gives it.
        strides: Strides of the pyramid's levels in pixels; those beyond the backbone's are for proposals only.
        channels: Channels of the pyramid.
        positive_iou: Proposals that overlap an object at least so far learn its class and box, the others that they
            show the background.
        proposals: The region proposal network.
        boxes: The box head.

    Raises:
        InputError: If the strides don't fit the backbone or the anchors' sizes.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        strides: tuple[int, ...] = (4, 8, 16, 32, 64),
        channels: int = 256,
        positive_iou: float = 0.5,
        proposals: ProposalSettings = DEFAULT_PROPOSALS,
        boxes: BoxSettings = DEFAULT_BOXES,
    ) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(feature_info, strides, channels, extra_levels="pool")
        self.divisor = self.pyramid.divisor
        self.detections_per_image = boxes.detections_per_image
        self.masks: MaskBranch | None = None
        self.proposals = proposal_network(strides, channels, proposals)
        self.regions = RoIHeads(
            RegionPooling(self.pyramid.merged_strides, boxes.pooled_size, boxes.canonical_size),
            box_head(channels, boxes),
            BoxPredictor(boxes.width, num_classes),
            positive_iou,
            positive_iou,
            boxes.samples_per_image,
            boxes.positive_fraction,
            None,
            boxes.score_threshold,
            boxes.nms_threshold,
            boxes.detections_per_image,
        )

    def losses(self, features: VisionFeatures, sizes: ImageSizes, objects: list[Objects]) -> dict[str, Tensor]:
        levels, images = region_inputs(self.pyramid, features, sizes)
        targets = region_targets(objects)
        proposals, proposal_losses = self.proposals(images, levels, targets)
        boxes, owners, labels, corrections = self.regions.select_training_samples(proposals, targets)
        losses = {
            "proposal_objectness": proposal_losses["loss_objectness"],
            "proposal_boxes": proposal_losses["loss_rpn_box_reg"],
        }
        losses["classification"], losses["boxes"] = fastrcnn_loss(*self._predict(levels, boxes), labels, corrections)
        if self.masks is not None:
            found = [each > 0 for each in labels]
            losses["masks"] = self.masks.loss(
                levels,
                [each[index] for each, index in zip(boxes, found, strict=True)],
                [each[index] - 1 for each, index in zip(labels, found, strict=True)],
                [each[index] for each, index in zip(owners, found, strict=True)],
                masks_of(objects),
            )
        return losses

    def detect(self, features: VisionFeatures, sizes: ImageSizes) -> list[Detections]:
        levels, images = region_inputs(self.pyramid, features, sizes)
        proposals, _ = self.proposals(images, levels)
        parts = self.regions.postprocess_detections(*self._predict(levels, proposals), proposals, images.image_sizes)
        found = [Detections(boxes, scores, labels - 1) for boxes, scores, labels in zip(*parts, strict=True)]
        return found if self.masks is None else self.masks.probabilities(levels, found)

    def _predict(self, levels: dict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and corrections of the boxes of all images."""
        return self.regions.box_predictor(self.regions.box_head(self.regions.box_roi_pool(levels, boxes)))


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask of each object (He et al. 2017, arXiv 1703.06870).

    Args:
        feature_info: Channels and stride of each map of the backbone; the task gives it.
        num_classes: Number of classes; the task gives it.
        strides: Strides of the pyramid's levels in pixels; those beyond the backbone's are for proposals only.
        channels: Channels of the pyramid.
        positive_iou: Proposals that overlap an object at least so far learn its class, box and mask, the others that
            they show the background.
        proposals: The region proposal network.
        boxes: The box head.
        masks: The mask head.

    Raises:
        InputError: If the strides don't fit the backbone or the anchors' sizes.
    """

    predicts_masks = True

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        strides: tuple[int, ...] = (4, 8, 16, 32, 64),
        channels: int = 256,
        positive_iou: float = 0.5,
        proposals: ProposalSettings = DEFAULT_PROPOSALS,
        boxes: BoxSettings = DEFAULT_BOXES,
        masks: MaskSettings = DEFAULT_MASKS,
    ) -> None:
        super().__init__(feature_info, num_classes, strides, channels, positive_iou, proposals, boxes)
        self.masks = MaskBranch(self.pyramid.merged_strides, channels, num_classes, boxes.canonical_size, masks)

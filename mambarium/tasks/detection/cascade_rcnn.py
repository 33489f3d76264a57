"""Cascade Mask R-CNN: three box heads, each on the boxes of the one before and stricter than it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, clip_boxes_to_image, generalized_box_iou_loss

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.errors import InputError
from mambarium.private_names.torchvision import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from mambarium.tasks.dense.pyramid import FeaturePyramid
from mambarium.tasks.detection.detector import Detections, Detector, ImageSizes, Limits, Objects, select_detections
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

CORRECTION_SCALES = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
"""What the three stages' corrections of centre and size are multiplied by, so that finer ones keep their scale."""

OVERLAP_WEIGHT = 10.0
"""Weight of the overlap's loss beside the classes', as in the recipes that use it (Swin's, MambaVision's)."""


class CascadeMaskRCNN(Detector):
    """Mask R-CNN whose box head has three stages (Cai and Vasconcelos 2019, arXiv 1906.09756).

    Proposals are sampled once, before the first stage; later stages match its refined boxes anew, as in detectron2. The
    stages' losses are weighed as in mmdetection.
    Boxes are corrected alike for all classes. In evaluation the stages' class probabilities are averaged; boxes are the
    last stage's. There is one mask head, trained on the sampled proposals.

    Args:
        feature_info: Channels and stride of each map of the backbone; the task gives it.
        num_classes: Number of classes; the task gives it.
        strides: Strides of the pyramid's levels in pixels; those beyond the backbone's are for proposals only.
        channels: Channels of the pyramid.
        positive_ious: For each stage, the overlap with an object from which a box learns its class and box.
        stage_weights: Weight of each stage's losses.
        box_loss: What boxes learn from: `smooth_l1` of the corrections, or `giou`, ten times the generalised overlap
            (Rezatofighi et al. 2019, arXiv 1902.09630) of the corrected boxes.
        proposals: The region proposal network.
        boxes: The box head of each stage.
        masks: The mask head.

    Raises:
        InputError: If the strides don't fit the backbone or the anchors' sizes, or a stage lacks a number.
    """

    predicts_masks = True

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        strides: tuple[int, ...] = (4, 8, 16, 32, 64),
        channels: int = 256,
        positive_ious: tuple[float, float, float] = (0.5, 0.6, 0.7),
        stage_weights: tuple[float, float, float] = (1.0, 0.5, 0.25),
        box_loss: Literal["smooth_l1", "giou"] = "smooth_l1",
        proposals: ProposalSettings = DEFAULT_PROPOSALS,
        boxes: BoxSettings = DEFAULT_BOXES,
        masks: MaskSettings = DEFAULT_MASKS,
    ) -> None:
        super().__init__()
        if len(positive_ious) != 3 or len(stage_weights) != 3:
            raise InputError("CascadeMaskRCNN has three stages; give three positive_ious and three stage_weights")
        self.pyramid = FeaturePyramid(feature_info, strides, channels, extra_levels="pool")
        self.divisor = self.pyramid.divisor
        self.detections_per_image = boxes.detections_per_image
        self.proposals = proposal_network(strides, channels, proposals)
        pooled_from = self.pyramid.merged_strides
        self.box_pooling = RegionPooling(pooled_from, boxes.pooled_size, boxes.canonical_size)
        self.box_heads = nn.ModuleList(box_head(channels, boxes) for _ in range(3))
        self.box_predictors = nn.ModuleList(
            BoxPredictor(boxes.width, num_classes, class_agnostic=True) for _ in range(3)
        )
        self.masks = MaskBranch(pooled_from, channels, num_classes, boxes.canonical_size, masks)
        self.matchers = [Matcher(iou, iou) for iou in positive_ious]
        self.coders = [BoxCoder(scales) for scales in CORRECTION_SCALES]
        self.sampler = BalancedPositiveNegativeSampler(boxes.samples_per_image, boxes.positive_fraction)
        self.stage_weights = tuple(stage_weights)
        self.box_loss = box_loss
        self.limits = Limits(
            boxes.score_threshold, boxes.nms_threshold, proposals.kept[1] * num_classes, boxes.detections_per_image
        )

    def losses(self, features: VisionFeatures, sizes: ImageSizes, objects: list[Objects]) -> dict[str, Tensor]:
        levels, images = region_inputs(self.pyramid, features, sizes)
        targets = region_targets(objects)
        proposals, proposal_losses = self.proposals(images, levels, targets)
        boxes = [torch.cat([each, target["boxes"]]) for each, target in zip(proposals, targets, strict=True)]
        matched = [match(self.matchers[0], *pair) for pair in zip(boxes, targets, strict=True)]
        positive, negative = self.sampler([labels for _, labels in matched])
        samples = [torch.nonzero(pos | neg)[:, 0] for pos, neg in zip(positive, negative, strict=True)]
        boxes = [each[index] for each, index in zip(boxes, samples, strict=True)]
        matched = [(who[index], labels[index]) for (who, labels), index in zip(matched, samples, strict=True)]
        sampled, sampled_match = boxes, matched

        losses = {
            "proposal_objectness": proposal_losses["loss_objectness"],
            "proposal_boxes": proposal_losses["loss_rpn_box_reg"],
        }
        for stage, weight in enumerate(self.stage_weights):
            if stage:
                matched = [match(self.matchers[stage], *pair) for pair in zip(boxes, targets, strict=True)]
            logits, corrections = self._stage(stage, levels, boxes)
            classification, box = self._stage_losses(stage, logits, corrections, boxes, matched, targets)
            losses[f"classification_{stage + 1}"] = weight * classification
            losses[f"boxes_{stage + 1}"] = weight * box
            boxes = self._refined(stage, corrections.detach(), boxes, sizes)

        found = [labels > 0 for _, labels in sampled_match]
        losses["masks"] = self.masks.loss(
            levels,
            [each[index] for each, index in zip(sampled, found, strict=True)],
            [labels[index] - 1 for (_, labels), index in zip(sampled_match, found, strict=True)],
            [who[index] for (who, _), index in zip(sampled_match, found, strict=True)],
            masks_of(objects),
        )
        return losses

    def detect(self, features: VisionFeatures, sizes: ImageSizes) -> list[Detections]:
        levels, images = region_inputs(self.pyramid, features, sizes)
        boxes, _ = self.proposals(images, levels)
        stages = []
        for stage in range(3):
            logits, corrections = self._stage(stage, levels, boxes)
            stages.append(logits.softmax(dim=1)[:, 1:])
            boxes = self._refined(stage, corrections, boxes, sizes)
        scores = torch.stack(stages).mean(dim=0).split([len(each) for each in boxes])
        found = [
            select_detections(image_scores, image_boxes, [len(image_boxes)], size, self.limits)
            for image_scores, image_boxes, size in zip(scores, boxes, sizes.as_list(), strict=True)
        ]
        return self.masks.probabilities(levels, found)

    def _stage(self, stage: int, levels: dict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and corrections (boxes of all images, 4)."""
        return self.box_predictors[stage](self.box_heads[stage](self.box_pooling(levels, boxes)))

    def _stage_losses(
        self,
        stage: int,
        logits: Tensor,
        corrections: Tensor,
        boxes: list[Tensor],
        matched: list[tuple[Tensor, Tensor]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        labels = torch.cat([each for _, each in matched])
        found = labels > 0
        wanted = torch.cat(
            [
                target["boxes"][who] if len(target["boxes"]) else torch.zeros_like(each)
                for target, (who, _), each in zip(targets, matched, boxes, strict=True)
            ]
        )
        coder, before, wanted = self.coders[stage], torch.cat(boxes)[found], wanted[found]
        if self.box_loss == "giou":
            corrected = coder.decode_single(corrections[found], before)
            box_loss = OVERLAP_WEIGHT * generalized_box_iou_loss(corrected, wanted, reduction="sum")
        else:
            goal = coder.encode_single(wanted, before)
            box_loss = F.smooth_l1_loss(corrections[found], goal, beta=1 / 9, reduction="sum")
        return F.cross_entropy(logits, labels), box_loss / max(1, len(labels))

    def _refined(self, stage: int, corrections: Tensor, boxes: list[Tensor], sizes: ImageSizes) -> list[Tensor]:
        """Return the corrected boxes of each image, clipped to it."""
        refined = self.coders[stage].decode_single(corrections, torch.cat(boxes)).split([len(each) for each in boxes])
        return [clip_boxes_to_image(each, size) for each, size in zip(refined, sizes.as_list(), strict=True)]


def match(matcher: Matcher, boxes: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the object of each box (0 if none) and its label, 0 for the background."""
    if not len(target["boxes"]) or not len(boxes):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing
    who = matcher(box_iou(target["boxes"], boxes))
    return who.clamp(min=0), torch.where(who >= 0, target["labels"][who.clamp(min=0)], 0)

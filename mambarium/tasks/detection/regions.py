"""The parts of R-CNN detectors: region proposals, pooling of regions, heads on them, all with float32 outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from mambarium.backbones.contract import VisionFeatures
from mambarium.backbones.layers.heads import ChannelNorm
from mambarium.errors import InputError
from mambarium.tasks.dense.pyramid import FeaturePyramid
from mambarium.tasks.detection.anchors import GridAnchors
from mambarium.tasks.detection.detector import Detections, ImageSizes, Objects


@dataclass(frozen=True)
class ProposalSettings:
    """The region proposal network.

    Attributes:
        anchor_sizes: Anchor of each pyramid level, square root of its area in pixels.
        aspect_ratios: Height by width of the anchors.
        num_convs: Convolutions before the predictions.
        positive_iou: Anchors that overlap an object at least so far are positive.
        negative_iou: Anchors that overlap no object so far are negative; those between are not trained on.
        samples_per_image: Anchors of an image that the loss looks at.
        positive_fraction: Most of them that may be positive.
        candidates: Most proposals of a level before overlapping ones are dropped, in training and in evaluation.
        kept: Most proposals of an image after that, in training and in evaluation.
        nms_threshold: Overlap (IoU) with a surer proposal of the same level from which one is dropped.
    """

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    num_convs: int = 1
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples_per_image: int = 256
    positive_fraction: float = 0.5
    candidates: tuple[int, int] = (2000, 1000)
    kept: tuple[int, int] = (2000, 1000)
    nms_threshold: float = 0.7


@dataclass(frozen=True)
class BoxSettings:
    """The box head and what is kept of its detections.

    Attributes:
        samples_per_image: Proposals of an image that the loss looks at.
        positive_fraction: Most of them that may be positive.
        pooled_size: Rows and columns of a pooled region.
        canonical_size: Side in pixels of regions that are pooled from the level of stride 16; half of it from the
            level of stride 8, and so on.
        num_convs: 3x3 convolutions with norm before the linear layers; 0 for two linear layers instead.
        norm: The convolutions' norm: `layer` works at any batch size, `batch` with `trainer.sync_batchnorm` is what
            mmdetection's recipes use.
        width: Size of the vector of a region.
        score_threshold: Less sure detections are dropped.
        nms_threshold: Overlap (IoU) with a surer detection of the same class from which one is dropped.
        detections_per_image: Most detections of an image.
    """

    samples_per_image: int = 512
    positive_fraction: float = 0.25
    pooled_size: int = 7
    canonical_size: int = 224
    num_convs: int = 0
    norm: Literal["layer", "batch"] = "layer"
    width: int = 1024
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100


@dataclass(frozen=True)
class MaskSettings:
    """The mask head; masks have twice as many rows and columns as a pooled region.

    Attributes:
        pooled_size: Rows and columns of a pooled region.
        num_convs: 3x3 convolutions before the transposed one.
        channels: Channels of the convolutions.
    """

    pooled_size: int = 14
    num_convs: int = 4
    channels: int = 256


DEFAULT_PROPOSALS = ProposalSettings()
DEFAULT_BOXES = BoxSettings()
DEFAULT_MASKS = MaskSettings()


class RegionPooling(nn.Module):
    """RoIAlign from the pyramid level that fits a region's size (Lin et al. 2017, equation 1).

    torchvision's own pooling guesses strides from the sizes of the first batch. Regions of `canonical_size` pixels are
    pooled from the level of stride 16; levels beyond `strides` are left alone.
    """

    def __init__(self, strides: Sequence[int], output_size: int, canonical_size: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.output_size = output_size
        finest, coarsest = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
        self.level_of = LevelMapper(finest, coarsest, canonical_scale=canonical_size, canonical_level=4)

    def forward(self, levels: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """Regions (regions, channels, output_size, output_size) of each image's boxes, image after image."""
        maps = list(levels.values())[: len(self.strides)]
        numbers = [torch.full_like(each[:, :1], index) for index, each in enumerate(boxes)]
        regions = torch.cat([torch.cat(numbers), torch.cat(boxes)], dim=1)  # (regions, 5)
        level_of_region = self.level_of(boxes)
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], self.output_size, self.output_size)
        for index, (level, stride) in enumerate(zip(maps, self.strides, strict=True)):
            chosen = torch.nonzero(level_of_region == index)[:, 0]
            # In float32: bfloat16 would round coordinates above 512 to multiples of 4.
            crops = roi_align(
                level.float(), regions[chosen].float(), self.output_size, 1 / stride, sampling_ratio=2, aligned=True
            )
            pooled = pooled.index_put((chosen,), crops.to(pooled.dtype))
        return pooled


class ProposalHead(RPNHead):
    """torchvision's head with float32 outputs, whose boxes keep their precision under autocast."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box corrections of each level."""
        objectness, corrections = super().forward(x)
        return [each.float() for each in objectness], [each.float() for each in corrections]


def proposal_network(strides: Sequence[int], channels: int, settings: ProposalSettings) -> RegionProposalNetwork:
    """Torchvision's region proposal network on pyramid levels of known strides."""
    anchors = GridAnchors(strides, [(size,) for size in settings.anchor_sizes], settings.aspect_ratios)
    return RegionProposalNetwork(
        anchors,
        ProposalHead(channels, len(settings.aspect_ratios), conv_depth=settings.num_convs),
        settings.positive_iou,
        settings.negative_iou,
        settings.samples_per_image,
        settings.positive_fraction,
        dict(zip(("training", "testing"), settings.candidates, strict=True)),
        dict(zip(("training", "testing"), settings.kept, strict=True)),
        settings.nms_threshold,
    )


def box_head(channels: int, settings: BoxSettings) -> nn.Module:
    """From pooled regions to vectors (regions, width)."""
    if settings.num_convs:
        size = (channels, settings.pooled_size, settings.pooled_size)
        norm = nn.BatchNorm2d if settings.norm == "batch" else ChannelNorm
        return FastRCNNConvFCHead(size, [channels] * settings.num_convs, [settings.width], norm_layer=norm)
    return TwoMLPHead(channels * settings.pooled_size**2, settings.width)


class BoxPredictor(nn.Module):
    """Class logits, background first, and box corrections of regions, in float32."""

    def __init__(self, width: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.classes = nn.Linear(width, num_classes + 1)
        self.corrections = nn.Linear(width, 4 if class_agnostic else 4 * (num_classes + 1))
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.corrections.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.corrections.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (regions, num_classes + 1) and corrections (regions, 4 or 4 * (num_classes + 1))."""
        return self.classes(x).float(), self.corrections(x).float()


class MaskBranch(nn.Module):
    """The masks of boxes: pooling, convolutions, a mask per class."""

    def __init__(
        self,
        pooled_strides: Sequence[int],
        channels: int,
        num_classes: int,
        canonical_size: int,
        settings: MaskSettings,
    ) -> None:
        super().__init__()
        self.pooling = RegionPooling(pooled_strides, settings.pooled_size, canonical_size)
        self.head = MaskRCNNHeads(channels, [settings.channels] * settings.num_convs, dilation=1)
        self.predictor = MaskRCNNPredictor(settings.channels, settings.channels, num_classes)

    def forward(self, levels: dict[str, Tensor], boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """Mask logits (boxes of all images, rows, columns) of the classes (from 0) that each image's boxes have."""
        logits = self.predictor(self.head(self.pooling(levels, boxes))).float()
        return logits[torch.arange(len(logits), device=logits.device), torch.cat(labels)]

    def loss(
        self,
        levels: dict[str, Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        owners: list[Tensor],
        masks: list[Tensor],
    ) -> Tensor:
        """Mean binary cross-entropy with the masks (objects, height, width) of the boxes' owners, within the boxes."""
        logits = self(levels, boxes, labels)
        if not len(logits):
            return logits.sum()
        crops = [
            roi_align(
                mask[:, None].float(),
                torch.cat([owner[:, None].float(), box], dim=1),
                logits.shape[-1],
                aligned=True,
            )[:, 0]
            for mask, owner, box in zip(masks, owners, boxes, strict=True)
            if len(box)
        ]
        return F.binary_cross_entropy_with_logits(logits, torch.cat(crops))

    def probabilities(self, levels: dict[str, Tensor], found: list[Detections]) -> list[Detections]:
        """Return detections with their masks."""
        logits = self(levels, [each.boxes for each in found], [each.labels for each in found])
        masks = logits.sigmoid().split([len(each.boxes) for each in found])
        return [each._replace(masks=mask) for each, mask in zip(found, masks, strict=True)]


def region_inputs(
    pyramid: FeaturePyramid, features: VisionFeatures, sizes: ImageSizes
) -> tuple[dict[str, Tensor], ImageList]:
    """Pyramid levels by name and the images' sizes, as torchvision's parts take them."""
    levels = {str(index): level for index, level in enumerate(pyramid(features, sizes.padded, sizes.valid))}
    return levels, ImageList(levels["0"], sizes.as_list())


def region_targets(objects: list[Objects]) -> list[dict[str, Tensor]]:
    """Objects as torchvision's parts take them, the background being class 0."""
    return [{"boxes": each.boxes, "labels": each.labels + 1} for each in objects]


def masks_of(objects: list[Objects]) -> list[Tensor]:
    """Return the objects' masks; InputError if there are none."""
    masks = [each.masks for each in objects if each.masks is not None]
    if len(masks) < len(objects):
        raise InputError("the data has no instance masks; choose a detector without them, such as FasterRCNN")
    return masks

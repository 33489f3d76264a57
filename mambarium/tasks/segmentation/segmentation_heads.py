"""Heads that give each pixel a class: what they have in common, and the light one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo
from mambarium.errors import InputError


class SegmentationHead(nn.Module, ABC):
    """Class scores of each pixel from a pyramid of feature maps.

    Attributes:
        norm: `group` or `batch` norms after its convolutions; an auxiliary head beside it has the same.
    """

    norm: Literal["group", "batch"] = "group"

    @abstractmethod
    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (batch, classes, height, width) of the finest map's size, from maps from fine to coarse."""


SegmentationHeadFactory = Callable[[Sequence[FeatureInfo], int], SegmentationHead]
"""Makes a head from the maps' channels and strides and the number of classes; in YAML a `class_path` of a head."""


def resized(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation of (batch, channels, height, width) to a height and width; the same tensor if they fit."""
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, norm: Literal["group", "batch"] = "group"
) -> nn.Sequential:
    """Return a convolution that keeps the size, its norm (at most 32 groups of at least 8 channels) and ReLU."""
    groups = math.gcd(32, out_channels)
    while groups > 1 and out_channels // groups < 8:  # a group of one channel would make a 1x1 map all zero
        groups //= 2
    normed = nn.BatchNorm2d(out_channels) if norm == "batch" else nn.GroupNorm(groups, out_channels)
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, normed, nn.ReLU())


def check_head(channels: int, dropout: float, norm: str) -> None:
    """Raise InputError for settings that no head can have."""
    if channels < 1:
        raise InputError(f"channels of the segmentation head is {channels}; give 1 or more")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout of the segmentation head is {dropout}; give a number from 0 to below 1")
    if norm not in ("group", "batch"):
        raise InputError(f"norm of the segmentation head is '{norm}'; give group or batch")


class LightFPNHead(SegmentationHead):
    """The top-down path of a feature pyramid alone, for small models and short runs.

    All maps are brought to one number of channels and summed at the finest map's size (Lin et al. 2017); one 3x3
    convolution and the classifier follow.

    Args:
        feature_info: Channels and stride of each map.
        num_classes: Number of classes.
        channels: Channels of the sum.
        dropout: Share of channels dropped before the classifier in training.
    """

    def __init__(
        self, feature_info: Sequence[FeatureInfo], num_classes: int, channels: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_head(channels, dropout, "group")
        self.laterals = nn.ModuleList(nn.Conv2d(info.channels, channels, 1) for info in feature_info)
        self.fuse = conv_norm_relu(channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        laterals = [lateral(feature_map) for lateral, feature_map in zip(self.laterals, maps, strict=True)]
        total = laterals[-1]
        for lateral in reversed(laterals[:-1]):
            total = lateral + resized(total, lateral.shape[-2:])
        return self.classifier(self.dropout(self.fuse(total)))


class FCNHead(nn.Module):
    """One 3x3 convolution and a classifier on one map: the auxiliary head of published recipes (Long et al. 2015).

    Args:
        in_channels: Channels of the map.
        num_classes: Number of classes.
        channels: Channels of the convolution.
        dropout: Share of channels dropped before the classifier in training.
        norm: `group` works at any batch size; `batch` with `trainer.sync_batchnorm` is what published recipes use.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        dropout: float = 0.1,
        norm: Literal["group", "batch"] = "group",
    ) -> None:
        super().__init__()
        check_head(channels, dropout, norm)
        self.fuse = conv_norm_relu(in_channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Logits (batch, classes, height, width) of a map (batch, channels, height, width)."""
        return self.classifier(self.dropout(self.fuse(feature_map)))

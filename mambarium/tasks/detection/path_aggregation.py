"""The neck of the YOLO family: a feature pyramid down to fine levels and a second one back up to coarse ones."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.convolutions import ConvNormAct
from mambarium.backbones.vision.mamba_yolo import ODSSBlock
from mambarium.errors import InputError
from mambarium.tasks.dense.maps import FeatureMaps


class CrossStageBlock(nn.Module):
    """Half of the channels go through `depth` bottlenecks, and every step's output is mixed in (C2f of YOLOv8)."""

    def __init__(self, before: int, after: int, depth: int) -> None:
        super().__init__()
        half = after // 2
        self.split = ConvNormAct(before, 2 * half)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(ConvNormAct(half, half, 3), ConvNormAct(half, half, 3)) for _ in range(depth)
        )
        self.merge = ConvNormAct((2 + depth) * half, after)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, height, width)."""
        parts = list(self.split(x).chunk(2, dim=1))
        for bottleneck in self.bottlenecks:
            parts.append(bottleneck(parts[-1]))
        return self.merge(torch.cat(parts, dim=1))


class PathAggregation(nn.Module):
    """Path aggregation network (Liu et al. 2018, arXiv 1803.01534) with concatenation, as in YOLOv8 or Mamba-YOLO.

    Args:
        feature_info: Channels and stride of each map of the backbone; a map of other channels than its level gets a 1x1
            convolution.
        strides: Strides of the levels, from fine to coarse, each the double of the one before.
        channels: Channels of each level, even.
        depth: Bottlenecks of each block, or its scans.
        state_space: Whether the blocks are Mamba-YOLO's, with scans, instead of YOLOv8's, with bottlenecks.

    Attributes:
        divisor: Images whose sizes are multiples of this have levels that lie exactly on each other.

    Raises:
        InputError: If the numbers don't fit each other or the backbone.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        strides: Sequence[int],
        channels: Sequence[int],
        depth: int,
        state_space: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f"the depth of the neck's blocks must be at least 1, got {depth}")
        if any(stride != strides[0] * 2**level for level, stride in enumerate(strides)):
            raise InputError(f"each stride of a pyramid must be the double of the one before, got {list(strides)}")
        if len(channels) != len(strides) or any(count < 2 or count % 2 for count in channels):
            raise InputError(f"channels is {list(channels)}; give an even number for each of strides {list(strides)}")
        self.divisor = math.lcm(*strides)
        self.maps = FeatureMaps(feature_info, strides)

        def block(before: int, after: int) -> nn.Module:
            if state_space:
                return ODSSBlock(before, after, num_scans=depth, in_neck=True)
            return CrossStageBlock(before, after, depth)

        lateral = [info.channels for info in self.maps.info]
        self.lateral = nn.ModuleList(
            nn.Identity() if before == after else ConvNormAct(before, after)
            for before, after in zip(lateral, channels, strict=True)
        )
        pairs = list(pairwise(channels))  # fine and coarse
        self.down = nn.ModuleList(block(fine + coarse, fine) for fine, coarse in pairs)
        self.reduce = nn.ModuleList(ConvNormAct(fine, fine, 3, stride=2) for fine, _ in pairs)
        self.up = nn.ModuleList(block(fine + coarse, coarse) for fine, coarse in pairs)

    def forward(
        self, features: VisionFeatures, image_size: tuple[int, int], valid_size: Tensor | None = None
    ) -> list[Tensor]:
        """One map (batch, channels_i, ceil(height / stride_i), ceil(width / stride_i)) per stride."""
        maps = self.maps(features, image_size, valid_size)
        levels = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        for index in reversed(range(len(self.down))):
            coarse = F.interpolate(levels[index + 1], levels[index].shape[-2:], mode="nearest")
            levels[index] = self.down[index](torch.cat([levels[index], coarse], dim=1))
        for index, (reduce, up) in enumerate(zip(self.reduce, self.up, strict=True)):
            levels[index + 1] = up(torch.cat([reduce(levels[index]), levels[index + 1]], dim=1))
        return levels

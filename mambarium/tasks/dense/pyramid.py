"""The feature pyramid network between a backbone's maps and a detector."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.errors import InputError
from mambarium.tasks.dense.maps import FeatureMaps

ExtraLevels = Literal["convolution", "pool"]
"""How levels coarser than the backbone's maps are made: 3x3 convolutions of stride 2 (RetinaNet, FCOS), or every
second pixel of the level before (R-CNN)."""


class FeaturePyramid(nn.Module):
    """Normed maps, merged from coarse to fine, all with the same number of channels (Lin et al. 2017).

    Levels up to the backbone's coarsest map, or up to twice the stride of its only one, are merged; coarser ones are
    made from the coarsest merged level.

    Args:
        feature_info: Channels and stride of each map of the backbone.
        strides: Strides of the levels in input pixels, from fine to coarse; each the double of the one before.
        channels: Channels of each level.
        extra_levels: How levels beyond the backbone's coarsest map are made.

    Attributes:
        strides: Strides of the levels.
        merged_strides: Strides of those that are merged.
        channels: Channels of each level.
        divisor: Images whose sizes are multiples of this have levels that lie exactly on each other.

    Raises:
        InputError: If a stride is not the double of the one before or cannot be had from the backbone.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        strides: Sequence[int],
        channels: int,
        extra_levels: ExtraLevels = "convolution",
    ) -> None:
        super().__init__()
        if not strides or any(stride != strides[0] * 2**level for level, stride in enumerate(strides)):
            raise InputError(f"each stride of a pyramid must be the double of the one before, got {list(strides)}")
        coarsest = feature_info[-1].stride * (2 if len(feature_info) == 1 else 1)
        merged = [stride for stride in strides if stride <= coarsest]
        if not merged:
            raise InputError(
                f"every stride of {list(strides)} is beyond the backbone's coarsest map of stride {coarsest}"
            )
        self.strides = tuple(strides)
        self.merged_strides = tuple(merged)
        self.channels = channels
        self.divisor = math.lcm(*merged)
        self.maps = FeatureMaps(feature_info, merged)
        self.merge = FeaturePyramidNetwork([info.channels for info in self.maps.info], channels)
        self.extra_levels = extra_levels
        extra = len(strides) - len(merged) if extra_levels == "convolution" else 0
        self.extra = nn.ModuleList(_extra_convolution(channels) for _ in range(extra))

    def forward(
        self, features: VisionFeatures, image_size: tuple[int, int], valid_size: Tensor | None = None
    ) -> list[Tensor]:
        """Return a map (batch, channels, ceil(height / stride), ceil(width / stride)) per stride; as `FeatureMaps`."""
        maps = self.maps(features, image_size, valid_size)
        levels = list(self.merge(OrderedDict((str(i), x) for i, x in enumerate(maps))).values())
        for convolution in self.extra:
            is_first = len(levels) == len(maps)
            levels.append(convolution(levels[-1] if is_first else F.relu(levels[-1])))
        while len(levels) < len(self.strides):
            levels.append(levels[-1][..., ::2, ::2])
        return levels


def _extra_convolution(channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer

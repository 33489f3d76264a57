"""UPerNet's head: pyramid pooling on the coarsest map, a feature pyramid over all of them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo
from mambarium.tasks.segmentation.segmentation_heads import SegmentationHead, check_head, conv_norm_relu, resized

POOL_SIZES = (1, 2, 3, 6)
"""Height and width of the pooled maps, as in the Pyramid Scene Parsing Network (Zhao et al. 2017)."""


class PyramidPooling(nn.Module):
    """Averages of a map over a few coarse grids, beside the map itself."""

    def __init__(self, in_channels: int, channels: int, norm: Literal["group", "batch"]) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(conv_norm_relu(in_channels, channels, 1, norm) for _ in POOL_SIZES)
        self.fuse = conv_norm_relu(in_channels + len(POOL_SIZES) * channels, channels, 3, norm)

    def forward(self, feature_map: Tensor) -> Tensor:
        """(batch, channels, height, width) of a map (batch, in_channels, height, width)."""
        size = feature_map.shape[-2:]
        pooled = [
            resized(layer(F.adaptive_avg_pool2d(feature_map, pool_size)), size)
            for pool_size, layer in zip(POOL_SIZES, self.pooled, strict=True)
        ]
        return self.fuse(torch.cat([feature_map, *pooled], dim=1))


class UperNetHead(SegmentationHead):
    """The head of UPerNet (Xiao et al. 2018), with which the published backbones report ADE20K.

    Args:
        feature_info: Channels and stride of each map.
        num_classes: Number of classes.
        channels: Channels of the pyramid; published recipes use 512.
        dropout: Share of channels dropped before the classifier in training.
        norm: `group` works at any batch size; `batch` with `trainer.sync_batchnorm` is what published recipes use.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        channels: int = 512,
        dropout: float = 0.1,
        norm: Literal["group", "batch"] = "group",
    ) -> None:
        super().__init__()
        check_head(channels, dropout, norm)
        self.norm = norm
        finer = feature_info[:-1]
        self.pooling = PyramidPooling(feature_info[-1].channels, channels, norm)
        self.laterals = nn.ModuleList(conv_norm_relu(info.channels, channels, 1, norm) for info in finer)
        self.smoothing = nn.ModuleList(conv_norm_relu(channels, channels, 3, norm) for _ in finer)
        self.fuse = conv_norm_relu(len(feature_info) * channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        summed = [lateral(feature_map) for lateral, feature_map in zip(self.laterals, maps[:-1], strict=True)]
        summed.append(self.pooling(maps[-1]))
        for level in range(len(summed) - 2, -1, -1):
            summed[level] = summed[level] + resized(summed[level + 1], summed[level].shape[-2:])
        levels = [smooth(level) for smooth, level in zip(self.smoothing, summed[:-1], strict=True)]
        levels.append(summed[-1])
        size = levels[0].shape[-2:]
        return self.classifier(self.dropout(self.fuse(torch.cat([resized(level, size) for level in levels], dim=1))))

"""Stem, stages of blocks and the downsampling between them: what VMamba and LocalVMamba have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import check_images, check_multiples, check_stages
from mambarium.backbones.layers.drop_path import drop_path_rates
from mambarium.backbones.layers.heads import ChannelNorm, PooledClassifier


class VSSStages(VisionBackbone):
    """Stages of visual state space blocks, one map of each.

    The maps are the stages' outputs before any norm. Parts work on (batch, height, width, channels).

    Args:
        depths: Number of blocks of each stage.
        widths: Channels of each stage.
        stem_stride: How much the stem reduces height and width.
        size_divisibility: What height and width of images must be multiples of.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
        stem: Makes the stem of a width and a stride.
        downsampling: Makes what leads from a width to that of the next stage, at half the height and width.
        block: Makes a block of a width and a probability of dropping it; called in the blocks' order.
    """

    # A downsampling counts as the block after it.
    layer_patterns: ClassVar[tuple[tuple[str, int], ...]] = (
        (r"blocks\.(\d+)\.(\d+)\.", 0),
        (r"downsample_layers\.(\d+)\.", 1),
    )

    @abstractmethod
    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        stem_stride: Literal[1, 2, 4],
        size_divisibility: int,
        drop_path: float,
        stem: Callable[[int, Literal[1, 2, 4]], nn.Module],
        downsampling: Callable[[int, int], nn.Module],
        block: Callable[[int, float], nn.Module],
    ) -> None:
        super().__init__()
        check_stages(type(self).__name__, depths, widths, stem_stride)
        self.depths = tuple(depths)
        self.size_divisibility = size_divisibility
        self.feature_info = tuple(FeatureInfo(width, stem_stride * 2**i) for i, width in enumerate(widths))

        self.stem = stem(widths[0], stem_stride)
        self.downsample_layers = nn.ModuleList(downsampling(before, after) for before, after in pairwise(widths))
        rates = drop_path_rates(drop_path, sum(depths))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(block(width, next(rates)) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )

    def forward(self, images: Tensor) -> VisionFeatures:
        check_images(images)
        network = f"{type(self).__name__} with stem_stride {self.feature_info[0].stride}"
        check_multiples(network, images.shape[-2], images.shape[-1], self.size_divisibility)
        maps = self.maps(self.stem(images.permute(0, 2, 3, 1)))
        return VisionFeatures([x.permute(0, 3, 1, 2) for x in maps], None, {})

    def maps(self, x: Tensor) -> list[Tensor]:
        """Each stage's output, from the stem's."""
        maps: list[Tensor] = []
        for stage, blocks in enumerate(self.blocks):
            x = blocks(self.downsample_layers[stage - 1](x) if stage else x)
            maps.append(x)
        return maps

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Norm and mean of the last map, and a linear head."""
        width = self.feature_info[-1].channels
        return PooledClassifier(width, num_classes, map_norm=ChannelNorm(width, eps=1e-5))

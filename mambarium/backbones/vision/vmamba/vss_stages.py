"""Stem, stages of blocks and the downsampling between them: what VMamba and LocalVMamba have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images
from mambarium.backbones.layers.drop_path import drop_path_rates
from mambarium.backbones.layers.linear import Linear
from mambarium.backbones.layers.output_norms import OutputNorms
from mambarium.errors import InputError


class VSSStages(VisionBackbone):
    """Stages of visual state space blocks, one map of each.

    The maps are the stages' outputs before any norm; `output_norms` makes the norms that dense tasks put on them.
    Parts work on (batch, height, width, channels).

    Args:
        depths: Number of blocks of each stage.
        widths: Channels of each stage.
        stem_stride: How much the stem reduces height and width.
        size_divisibility: What height and width of images must be multiples of.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
        stem: Makes the stem of a width and a stride.
        downsampling: Makes what leads from a width to that of the next stage, at half the height and width.
        block: Makes a block of a width and a probability of dropping it; called in the blocks' order.

    Raises:
        InputError: If a number is out of range, or there are not as many depths as widths.
    """

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
        family = type(self).__name__
        if len(depths) != len(widths) or not depths:
            raise InputError(
                f"{family} needs as many depths as widths, at least one, got {len(depths)} and {len(widths)}"
            )
        check_at_least("every one of depths", min(depths), 1)
        check_at_least("every one of widths", min(widths), 1)
        if stem_stride not in (1, 2, 4):
            raise InputError(f"{family}'s stem_stride must be 1, 2 or 4, got {stem_stride}")
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
        """One map per stage of images (batch, 3, height, width).

        Raises:
            InputError: If the images do not have 3 channels, or the stem's patches do not cover them exactly.
        """
        check_images(images)
        height, width = images.shape[-2:]
        if min(height, width) < 1 or height % self.size_divisibility or width % self.size_divisibility:
            raise InputError(
                f"{type(self).__name__} with stem_stride {self.feature_info[0].stride} takes height and width that are "
                f"multiples of {self.size_divisibility}, got {height}x{width}"
            )
        x = self.stem(images.permute(0, 2, 3, 1))
        maps: list[Tensor] = []
        for stage, blocks in enumerate(self.blocks):
            if stage > 0:
                x = self.downsample_layers[stage - 1](x)
            x = blocks(x)  # (batch, height / stride, width / stride, channels)
            maps.append(x.permute(0, 3, 1, 2))
        return VisionFeatures(maps, None, {})

    def classifier(self, num_classes: int) -> VMambaClassifier:
        """Norm and mean of the last map, and a linear head."""
        return VMambaClassifier(self.feature_info[-1].channels, num_classes)

    def output_norms(self) -> OutputNorms:
        """New norms for the maps, as the official detection and segmentation backbones have them."""
        return OutputNorms(self.feature_info)

    def stages(self) -> list[list[str]]:
        """The stem, then each stage with the downsampling before it."""
        stages: list[list[str]] = [[] for _ in range(len(self.depths) + 1)]
        for name, _ in self.named_parameters():
            part, index = name.split(".")[:2]
            stages[0 if part == "stem" else int(index) + (1 if part == "blocks" else 2)].append(name)
        return stages

    def repeated_blocks(self) -> list[nn.Module]:
        """The blocks of all stages."""
        return [block for stage in self.blocks for block in stage.children()]

    def depth_of(self, parameter_name: str) -> int:
        """0 for the stem, then the number of the block; a downsampling counts as the block after it."""
        parts = parameter_name.split(".")
        if parts[0] == "stem":
            return 0
        if parts[0] == "downsample_layers":
            return sum(self.depths[: int(parts[1]) + 1]) + 1
        return sum(self.depths[: int(parts[1])]) + int(parts[2]) + 1


class VMambaClassifier(nn.Module):
    """Norm of the last map, its mean, and a linear head.

    Args:
        width: Channels of the last map.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head = Linear(width, num_classes)

    def forward(self, features: VisionFeatures) -> Tensor:
        """The stages' features to logits (batch, num_classes)."""
        return self.head(self.norm(features.maps[-1].permute(0, 2, 3, 1)).mean(dim=(1, 2)))

"""MambaOut: Mamba's gated block with the SSM taken out, or put back in.

"MambaOut: Do We Really Need Mamba for Vision?" (Yu and Wang 2024, arXiv 2405.07992), as in the official
`yuweihao/MambaOut` (`models/mambaout.py`). Tensors are (batch, height, width, channels) inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images
from mambarium.backbones.layers.conv_nhwc import ConvNHWC
from mambarium.backbones.layers.drop_path import DropPath, drop_path_rates
from mambarium.backbones.layers.linear import Linear
from mambarium.backbones.layers.selective_ssm import reset_delta_bias
from mambarium.errors import InputError
from mambarium.kernels import selective_scan


class MambaOut(VisionBackbone):
    """MambaOut, from images of any size to one map per stage.

    Args:
        depths: Number of blocks of each stage.
        widths: Channels of each stage, the first at least 2.
        stem_stride: How much the stem reduces height and width: 4 as published, 1 or 2 for small images.
        kernel_size: Height and width of the depthwise convolution, odd.
        expansion: Hidden channels per channel of a stage.
        conv_ratio: Convolved channels per channel of a stage, at most `expansion`.
        ssm: Put Mamba's SSM back behind the convolution of every block, scanning row by row: the paper's question is
            what it is worth. The published models have none.
        d_state: Size of one channel's state, with ssm.
        drop_path: Probability of dropping the last block for a sample in training; linearly less before.
    """

    size_divisibility = 1

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 4, 2),
        widths: tuple[int, ...] = (32, 64, 128, 192),
        stem_stride: Literal[1, 2, 4] = 4,
        kernel_size: int = 7,
        expansion: float = 8 / 3,
        conv_ratio: float = 1.0,
        ssm: bool = False,
        d_state: int = 16,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths) or not depths:
            raise InputError(
                f"MambaOut needs as many depths as widths, at least one, got {len(depths)} and {len(widths)}"
            )
        check_at_least("every one of depths", min(depths), 1)
        check_at_least("every one of widths", min(widths), 1)
        check_at_least("the first of widths, which the stem halves,", widths[0], 2)
        if conv_ratio > expansion or int(conv_ratio * min(widths)) < 1:
            raise InputError(
                f"MambaOut's conv_ratio must be at most expansion {expansion} and leave a channel of the smallest "
                f"width {min(widths)}, got {conv_ratio}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"MambaOut's kernel_size must be odd, got {kernel_size}")
        if stem_stride not in (1, 2, 4):
            raise InputError(f"MambaOut's stem_stride must be 1, 2 or 4, got {stem_stride}")
        check_at_least("d_state", d_state, 1)
        self.depths = tuple(depths)
        self.feature_info = tuple(FeatureInfo(width, stem_stride * 2**i) for i, width in enumerate(widths))
        self.downsample_layers = nn.ModuleList([Stem(widths[0], stem_stride)])
        self.downsample_layers.extend(Downsample(before, after) for before, after in pairwise(widths))
        rates = drop_path_rates(drop_path, sum(depths))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(
                    GatedCNNBlock(width, kernel_size, expansion, conv_ratio, d_state if ssm else None, next(rates))
                    for _ in range(depth)
                )
            )
            for width, depth in zip(widths, depths, strict=True)
        )

    def forward(self, images: Tensor) -> VisionFeatures:
        """One map per stage of images (batch, 3, height, width) of any size.

        Raises:
            InputError: If the images do not have 3 channels.
        """
        check_images(images)
        x = images.permute(0, 2, 3, 1)
        maps: list[Tensor] = []
        for downsample, blocks in zip(self.downsample_layers, self.blocks, strict=True):
            x = blocks(downsample(x))  # (batch, height / stride, width / stride, channels)
            maps.append(x.permute(0, 3, 1, 2))
        return VisionFeatures(maps, None, {})

    def classifier(self, num_classes: int) -> MambaOutClassifier:
        """Mean over the last map, norm and a two-layer head."""
        return MambaOutClassifier(self.feature_info[-1].channels, num_classes)

    def stages(self) -> list[list[str]]:
        """The stem, then each stage with the downsampling before it."""
        stages: list[list[str]] = [[] for _ in range(len(self.depths) + 1)]
        for name, _ in self.named_parameters():
            part, stage = name.split(".")[:2]
            is_stem = part == "downsample_layers" and stage == "0"
            stages[0 if is_stem else int(stage) + 1].append(name)
        return stages

    def repeated_blocks(self) -> list[nn.Module]:
        """The blocks of all stages."""
        return [block for stage in self.blocks for block in stage.children()]

    def depth_of(self, parameter_name: str) -> int:
        """0 for the stem, then the number of the block; a downsampling counts as the block after it."""
        parts = parameter_name.split(".")
        stage = int(parts[1])
        if parts[0] == "downsample_layers":
            return 0 if stage == 0 else sum(self.depths[:stage]) + 1
        return sum(self.depths[:stage]) + int(parts[2]) + 1


class Conv(ConvNHWC):
    """A convolution on (batch, height, width, channels) with MambaOut's initialisation."""

    def reset_parameters(self) -> None:
        """Truncated normal weight, zero bias."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Stem(nn.Module):
    """Two 3x3 convolutions, each followed by a norm, with a GELU between.

    Args:
        width: Output channels.
        stride: Reduction of height and width by both together.
    """

    def __init__(self, width: int, stride: Literal[1, 2, 4]) -> None:
        super().__init__()
        first, second = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[stride]
        self.conv1 = Conv(3, width // 2, 3, stride=first, padding=1)
        self.norm1 = nn.LayerNorm(width // 2, eps=1e-6)
        self.conv2 = Conv(width // 2, width, 3, stride=second, padding=1)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, 3) to (batch, ceil(height / stride), ceil(width / stride), channels)."""
        return self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm.

    Args:
        before: Input channels.
        after: Output channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = Conv(before, after, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(after, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, before) to (batch, ceil(height / 2), ceil(width / 2), after)."""
        return self.norm(self.conv(x))


class GatedCNNBlock(nn.Module):
    """The paper's figure 1: of the hidden value channels the last ones are convolved, then all are gated.

    With an SSM it is the paper's Mamba block: tokens are mixed by SSM(SiLU(convolution)) instead of the convolution.

    Args:
        width: Channels.
        kernel_size: Height and width of the depthwise convolution.
        expansion: Hidden channels per channel.
        conv_ratio: Convolved channels per channel.
        d_state: Size of one channel's state in the SSM; None for no SSM.
        drop_path: Probability of dropping the block for a sample in training.
    """

    def __init__(
        self,
        width: int,
        kernel_size: int,
        expansion: float,
        conv_ratio: float,
        d_state: int | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden, convolved = int(expansion * width), int(conv_ratio * width)
        self.split_sizes = (hidden, hidden - convolved, convolved)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = Linear(width, 2 * hidden)
        self.conv = Conv(convolved, convolved, kernel_size, padding=kernel_size // 2, groups=convolved)
        self.ssm = nn.Identity() if d_state is None else SSM(convolved, d_state, math.ceil(width / 16))
        self.fc2 = Linear(hidden, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        gate, identity, value = self.fc1(self.norm(x)).split(self.split_sizes, dim=-1)
        value = torch.cat([identity, self.ssm(self.conv(value))], dim=-1)
        return x + self.drop_path(self.fc2(F.gelu(gate) * value))


class SSM(nn.Module):
    """Mamba's SiLU and selective scan over a map, row by row, started as in Mamba.

    Args:
        dim: Channels, each with its own state.
        d_state: Size of one channel's state.
        dt_rank: Rank of the projection to the time step.
    """

    def __init__(self, dim: int, d_state: int, dt_rank: int) -> None:
        super().__init__()
        self.split_sizes = (dt_rank, d_state, d_state)
        self.x_proj = nn.Linear(dim, sum(self.split_sizes), bias=False)
        self.dt_proj = nn.Linear(dt_rank, dim)
        self.A_log = nn.Parameter(torch.empty(dim, d_state, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1..d_state) (S4D-real), D = 1, and Mamba's start of the time steps."""
        dt_rank, d_state, _ = self.split_sizes
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        reset_delta_bias(self.dt_proj.bias)
        self.A_log.copy_(torch.arange(1, d_state + 1, dtype=torch.float32, device=self.A_log.device).log())
        self.D.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        tokens = F.silu(x).flatten(1, 2)  # (batch, height * width, channels)
        delta_low, B, C = self.x_proj(tokens).split(self.split_sizes, dim=-1)
        y = selective_scan(
            tokens.transpose(1, 2),
            F.linear(delta_low, self.dt_proj.weight).transpose(1, 2),  # the scan adds the bias
            -torch.exp(self.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
        )
        return y.transpose(1, 2).unflatten(1, x.shape[1:3])


class MambaOutClassifier(nn.Module):
    """Mean over the last map, norm and a two-layer head.

    Args:
        width: Channels of the last map.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential()
        self.head.add_module("fc1", Linear(width, 4 * width))
        self.head.add_module("act", nn.GELU())
        self.head.add_module("norm", nn.LayerNorm(4 * width, eps=1e-6))
        self.head.add_module("fc2", Linear(4 * width, num_classes))

    def forward(self, features: VisionFeatures) -> Tensor:
        """MambaOut's features to logits (batch, num_classes)."""
        return self.head(self.norm(features.maps[-1].mean(dim=(2, 3))))


# Table 1 of the paper and the official factories, with the drop path of their training scripts.
VARIANTS: dict[str, Callable[[], MambaOut]] = {
    "mambaout_femto": partial(MambaOut, depths=(3, 3, 9, 3), widths=(48, 96, 192, 288), drop_path=0.025),
    "mambaout_kobe": partial(MambaOut, depths=(3, 3, 15, 3), widths=(48, 96, 192, 288), drop_path=0.025),
    "mambaout_tiny": partial(MambaOut, depths=(3, 3, 9, 3), widths=(96, 192, 384, 576), drop_path=0.2),
    "mambaout_small": partial(MambaOut, depths=(3, 4, 27, 3), widths=(96, 192, 384, 576), drop_path=0.4),
    "mambaout_base": partial(MambaOut, depths=(3, 4, 27, 3), widths=(128, 256, 512, 768), drop_path=0.6),
}

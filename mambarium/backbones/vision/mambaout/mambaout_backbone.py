"""MambaOut: Mamba's gated block with the SSM taken out, or put back in.

"MambaOut: Do We Really Need Mamba for Vision?" (Yu and Wang 2024, arXiv 2405.07992), as in the official
`yuweihao/MambaOut` (`models/mambaout.py`). Tensors are (batch, height, width, channels) inside.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, KernelUser, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_stages
from mambarium.backbones.layers.convolutions import ConvDownsample, ConvNHWC, ConvStem, Linear
from mambarium.backbones.layers.drop_path import DropPath, drop_path_rates
from mambarium.backbones.layers.heads import PooledClassifier
from mambarium.backbones.layers.selective_ssm import reset_delta, reset_s4d_real, scan_tokens
from mambarium.errors import InputError
from mambarium.kernels import selective_scan

_LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


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

    # A downsampling counts as the block after it.
    layer_patterns = ((r"blocks\.(\d+)\.(\d+)\.", 0), (r"downsample_layers\.([1-9]\d*)\.", 0))
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
        check_stages("MambaOut", depths, widths, stem_stride)
        check_at_least("the first of widths, which the stem halves,", widths[0], 2)
        if conv_ratio > expansion or int(conv_ratio * min(widths)) < 1:
            raise InputError(
                f"MambaOut's conv_ratio must be at most expansion {expansion} and leave a channel of the smallest "
                f"width {min(widths)}, got {conv_ratio}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"MambaOut's kernel_size must be odd, got {kernel_size}")
        check_at_least("d_state", d_state, 1)
        self.depths = tuple(depths)
        self.feature_info = tuple(FeatureInfo(width, stem_stride * 2**i) for i, width in enumerate(widths))
        self.downsample_layers = nn.ModuleList([ConvStem(widths[0] // 2, widths[0], stem_stride, Conv, _LAYER_NORM)])
        self.downsample_layers.extend(ConvDownsample(*pair, Conv, _LAYER_NORM) for pair in pairwise(widths))
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
        check_images(images)
        x = images.permute(0, 2, 3, 1)
        maps: list[Tensor] = []
        for downsample, blocks in zip(self.downsample_layers, self.blocks, strict=True):
            x = blocks(downsample(x))  # (batch, height / stride, width / stride, channels)
            maps.append(x.permute(0, 3, 1, 2))
        return VisionFeatures(maps, None, {})

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Mean over the last map, norm and a two-layer head."""
        width = self.feature_info[-1].channels
        layers = {
            "fc1": Linear(width, 4 * width),
            "act": nn.GELU(),
            "norm": _LAYER_NORM(4 * width),
            "fc2": Linear(4 * width, num_classes),
        }
        return PooledClassifier(width, num_classes, _LAYER_NORM(width), head=nn.Sequential(OrderedDict(layers)))


class Conv(ConvNHWC):
    """A convolution on (batch, height, width, channels) with MambaOut's initialisation."""

    def reset_parameters(self) -> None:
        """Draw a truncated normal weight, and a zero bias."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class GatedCNNBlock(nn.Module):
    """The paper's figure 1: of the hidden value channels the last ones are convolved, then all are gated.

    With an SSM it is the paper's Mamba block: tokens are mixed by SSM(SiLU(convolution)) instead of the convolution.
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
        self.norm = _LAYER_NORM(width)
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


class SSM(KernelUser, nn.Module):
    """Mamba's SiLU and selective scan over a map, row by row, started as in Mamba."""

    operations = (selective_scan,)
    no_weight_decay = ("A_log", "D")

    def __init__(self, dim: int, d_state: int, dt_rank: int) -> None:
        super().__init__()
        self.split_sizes = (dt_rank, d_state, d_state)
        self.x_proj = nn.Linear(dim, sum(self.split_sizes), bias=False)
        self.dt_proj = nn.Linear(dt_rank, dim)
        self.A_log = nn.Parameter(torch.empty(dim, d_state, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(dim, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from A = -(1..d_state) (S4D-real), D = 1, and Mamba's start of the time steps."""
        reset_delta(self.dt_proj.weight, self.dt_proj.bias)
        reset_s4d_real(self.A_log, self.D)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        tokens = F.silu(x).flatten(1, 2)  # (batch, height * width, channels)
        delta_low, B, C = self.x_proj(tokens).split(self.split_sizes, dim=-1)
        delta = F.linear(delta_low, self.dt_proj.weight)  # the scan adds the bias
        return scan_tokens(tokens, delta, self.A_log, B, C, self.D, self.dt_proj.bias).unflatten(1, x.shape[1:3])


# Table 1 of the paper and the official factories, with the drop path of their training scripts.
VARIANTS: dict[str, Callable[[], MambaOut]] = {
    "mambaout_femto": partial(MambaOut, depths=(3, 3, 9, 3), widths=(48, 96, 192, 288), drop_path=0.025),
    "mambaout_kobe": partial(MambaOut, depths=(3, 3, 15, 3), widths=(48, 96, 192, 288), drop_path=0.025),
    "mambaout_tiny": partial(MambaOut, depths=(3, 3, 9, 3), widths=(96, 192, 384, 576), drop_path=0.2),
    "mambaout_small": partial(MambaOut, depths=(3, 4, 27, 3), widths=(96, 192, 384, 576), drop_path=0.4),
    "mambaout_base": partial(MambaOut, depths=(3, 4, 27, 3), widths=(128, 256, 512, 768), drop_path=0.6),
}

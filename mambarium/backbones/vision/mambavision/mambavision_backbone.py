"""MambaVision: convolutions first, then Mamba mixers, then self-attention.

"MambaVision: A Hybrid Mamba-Transformer Vision Backbone" (Hatamizadeh and Kautz 2024, arXiv 2407.08083). Sizes and
what the paper leaves open are those of the official `NVlabs/MambaVision` (`models/mamba_vision.py`). Stages with
mixers work on windows of tokens, (windows, tokens, channels) inside.
"""

import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, KernelUser, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import (
    check_at_least,
    check_choice,
    check_convolution,
    check_images,
    check_stages,
)
from mambarium.backbones.layers.convolutions import ConvStem, Linear
from mambarium.backbones.layers.drop_path import DropPath, drop_path_rates
from mambarium.backbones.layers.heads import PooledClassifier
from mambarium.backbones.layers.selective_ssm import reset_s4d_real, scan_tokens
from mambarium.errors import InputError
from mambarium.kernels import causal_conv1d, selective_scan

AttentionPlacement = Literal[
    "last_half", "last_quarter", "first_half", "alternating_mamba_first", "alternating_attention_first", "random"
]
"""Which blocks of a stage attend: the rows of the paper's table 5."""

Combination = Literal["concatenate", "gate"]


class MambaVision(VisionBackbone):
    """MambaVision, from images of any size to one map per stage, taken before the downsampling that follows it.

    Stages with mixers cut their map into windows, between which nothing flows, filled up with zeros at the right and
    at the bottom. Window sizes have no parameters, so that any checkpoint serves any: published are 14 and 7 for 224
    pixels (one window each), 16 and 8 for 256, 32 and 16 for 512, for segmentation 64 and 32, for detection 112 and 56.

    Args:
        depths: Number of blocks of each stage.
        width: Channels of the first stage, doubled from stage to stage.
        stem_width: Channels between the stem's two convolutions.
        num_heads: Attention heads of each stage that has mixers, the last ones; the stages before have convolutions.
        window_sizes: Height and width of a window, in tokens, for each stage that has mixers.
        stem_stride: How much the stem reduces height and width: 4 as published, 1 or 2 for small images.
        mlp_ratio: Hidden channels of an MLP per channel of the stage.
        d_state: Size of one channel's state.
        d_conv: Width of the mixers' convolutions, 2 to 4.
        attention: Which blocks of a stage attend (the paper's table 5): the last half as published, the last quarter,
            the first half, every other one, or half of them drawn at random, always the same ones for a depth.
        causal: Convolve causally in the mixers, as Mamba does, instead of centred.
        symmetric_branch: Convolve the mixers' branch without SSM too; without, it is Mamba's bare SiLU of the input.
        combine: Join the mixers' branches by concatenation, as published, or gate one with the other, as Mamba does
            (the output projection then has half the size).
        layer_scale: Start value of a learned scale of each branch of a block with a mixer; None for no scale.
        drop_path: Probability of dropping the last block for a sample in training; linearly less before.
    """

    # A downsampling counts as the block after it.
    layer_patterns = ((r"levels\.(\d+)\.(\d+)\.", 0), (r"downsample_layers\.([1-9]\d*)\.", 0))
    size_divisibility = 1

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 2, 4, 2),
        width: int = 32,
        stem_width: int = 16,
        num_heads: tuple[int, ...] = (4, 8),
        window_sizes: tuple[int, ...] = (14, 7),
        stem_stride: Literal[1, 2, 4] = 4,
        mlp_ratio: float = 4.0,
        d_state: int = 8,
        d_conv: int = 3,
        attention: AttentionPlacement = "last_half",
        causal: bool = False,
        symmetric_branch: bool = True,
        combine: Combination = "concatenate",
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= len(num_heads) == len(window_sizes) <= len(depths):
            raise InputError(
                "MambaVision needs num_heads and window_sizes for the same last stages, at least one, "
                f"got {len(num_heads)} and {len(window_sizes)} for {len(depths)} stages"
            )
        widths = [width * 2**stage for stage in range(len(depths))]
        check_stages("MambaVision", depths, widths, stem_stride)
        sizes = {"every one of num_heads": min(num_heads), "every one of window_sizes": min(window_sizes)}
        for name, value in {**sizes, "stem_width": stem_width, "d_state": d_state}.items():
            check_at_least(name, value, 1)
        check_convolution(d_conv)
        check_choice("MambaVision's attention", attention, get_args(AttentionPlacement))
        check_choice("MambaVision's combine", combine, get_args(Combination))

        self.depths = tuple(depths)
        self.feature_info = tuple(FeatureInfo(channels, stem_stride * 2**i) for i, channels in enumerate(widths))
        self.downsample_layers = nn.ModuleList([Stem(stem_width, width, stem_stride)])
        self.downsample_layers.extend(
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False) for channels in widths[:-1]
        )
        self.levels = nn.ModuleList()
        rates = drop_path_rates(drop_path, sum(depths))
        for stage, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
            position = stage - (len(depths) - len(num_heads))
            if position < 0:
                self.levels.append(nn.Sequential(*(ConvBlock(channels, next(rates)) for _ in range(depth))))
                continue
            attending = attention_blocks(attention, depth)
            level = WindowedStage(window_sizes[position])
            for block in range(depth):
                mixer: nn.Module
                if block in attending:
                    mixer = SelfAttention(channels, num_heads[position])
                else:
                    mixer = MambaVisionMixer(channels, d_state, d_conv, causal, symmetric_branch, combine)
                level.append(MixerBlock(channels, mixer, mlp_ratio, layer_scale, next(rates)))
            self.levels.append(level)

    def forward(self, images: Tensor) -> VisionFeatures:
        check_images(images)
        x = images
        maps: list[Tensor] = []
        for downsample, level in zip(self.downsample_layers, self.levels, strict=True):
            x = level(downsample(x))  # (batch, channels, height / stride, width / stride)
            maps.append(x)
        return VisionFeatures(maps, None, {})

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Batch norm of the last map, its mean, and a linear head."""
        width = self.feature_info[-1].channels
        return PooledClassifier(width, num_classes, map_norm=nn.BatchNorm2d(width))


def attention_blocks(placement: AttentionPlacement, depth: int) -> set[int]:
    """Numbers, from 0, of the blocks of a stage that attend; of an odd depth the Mamba mixers get the larger half."""
    half = depth // 2
    blocks: dict[AttentionPlacement, Iterable[int]] = {
        "last_half": range(depth - half, depth),
        "last_quarter": range(depth - depth // 4, depth),
        "first_half": range(half),
        "alternating_mamba_first": range(1, depth, 2),
        "alternating_attention_first": range(0, 2 * half, 2),
        "random": random.Random(depth).sample(range(depth), half),
    }
    return set(blocks[placement])


class Stem(ConvStem):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, between: int, width: int, stride: Literal[1, 2, 4]) -> None:
        conv, norm = partial(nn.Conv2d, bias=False), partial(nn.BatchNorm2d, eps=1e-4)
        super().__init__(between, width, stride, conv, norm, F.relu)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, channels, ceil(height / stride), ceil(width / stride))."""
        return F.relu(super().forward(x))


class ConvBlock(nn.Module):
    """The residual block of the first stages, the paper's equation 1."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        hidden = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        return x + self.drop_path(self.norm2(self.conv2(hidden)))


class WindowedStage(nn.Sequential):
    """Runs its blocks on the windows of a map.

    As in the official code the map is filled up once for all blocks, and what fills it takes part in the mixing.
    """

    def __init__(self, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        height, width = x.shape[-2:]
        size, rows, columns = self.window_size, -(-height // self.window_size), -(-width // self.window_size)
        x = x.permute(0, 2, 3, 1)
        x = F.pad(x, (0, 0, 0, columns * size - width, 0, rows * size - height))
        x = x.unflatten(2, (columns, size)).unflatten(1, (rows, size))
        windows = x.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # (batch * rows * columns, size * size, channels)

        windows = super().forward(windows)

        x = windows.unflatten(1, (size, size)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)[:, :height, :width]  # (batch, height, width, channels)
        return x.permute(0, 3, 1, 2)


class MixerBlock(nn.Module):
    """The block of the last stages, the paper's equation 6: a token mixer, then an MLP, each in a residual branch."""

    def __init__(
        self, width: int, mixer: nn.Module, mlp_ratio: float, layer_scale: float | None, drop_path: float
    ) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.norm1 = nn.LayerNorm(width)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.empty(width))
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.empty(width))
        self.drop_path = DropPath(drop_path)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales at their start value."""
        for gamma in (self.gamma_1, self.gamma_2):
            if gamma is not None and self.layer_scale is not None:
                nn.init.constant_(gamma, self.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, tokens, channels) to the same."""
        x = x + self.drop_path(_scaled(self.mixer(self.norm1(x)), self.gamma_1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma_2))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


class MambaVisionMixer(KernelUser, nn.Module):
    """The paper's equation 7: one half of the channels through convolution and scan, the other through convolution.

    The bias of the time step is added twice, softplus(W x + 2 b), as in the official code (whose checkpoints need it).
    """

    operations = (causal_conv1d, selective_scan)
    no_weight_decay = ("A_log", "D")

    def __init__(
        self,
        width: int,
        d_state: int,
        d_conv: int,
        causal: bool,
        symmetric_branch: bool,
        combine: Combination,
    ) -> None:
        super().__init__()
        if width % 2:
            raise InputError(f"MambaVision's mixers need an even number of channels, got {width}")
        half, dt_rank = width // 2, math.ceil(width / 16)
        self.split_sizes = (dt_rank, d_state, d_state)
        self.look_ahead = 0 if causal else d_conv // 2
        self.concatenate = combine == "concatenate"
        self.in_proj = Linear(width, width, bias=False)
        self.conv1d_x = nn.Conv1d(half, half, d_conv, groups=half, bias=False)
        self.conv1d_z = nn.Conv1d(half, half, d_conv, groups=half, bias=False) if symmetric_branch else None
        self.x_proj = Linear(half, sum(self.split_sizes), bias=False)
        self.dt_proj = Linear(dt_rank, half)
        self.A_log = nn.Parameter(torch.empty(half, d_state, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(half, dtype=torch.float32))
        self.out_proj = Linear(width if self.concatenate else half, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from A = -(1..d_state) (S4D-real), D = 1."""
        reset_s4d_real(self.A_log, self.D)

    def forward(self, tokens: Tensor) -> Tensor:
        """(windows, tokens, channels) to the same."""
        xz = self.in_proj(tokens)
        if self.conv1d_z is None:
            x, z = xz.chunk(2, dim=-1)
            x, z = self._convolve(x, self.conv1d_x.weight), F.silu(z)
        else:
            # Depthwise convolutions side by side are one convolution, of both branches.
            weight = torch.cat([self.conv1d_x.weight, self.conv1d_z.weight])
            x, z = self._convolve(xz, weight).chunk(2, dim=-1)  # (windows, tokens, channels / 2) each
        delta_low, B, C = self.x_proj(x).split(self.split_sizes, dim=-1)
        y = scan_tokens(x, self.dt_proj(delta_low), self.A_log, B, C, self.D, self.dt_proj.bias)
        return self.out_proj(torch.cat([y, z], dim=-1) if self.concatenate else y * z)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Silu of the depthwise convolution of x (windows, tokens, dim) with weight (dim, 1, d_conv)."""
        # What a centred convolution gives for a token, the causal one gives `look_ahead` tokens later.
        x = F.pad(x, (0, 0, 0, self.look_ahead)).transpose(1, 2)
        return causal_conv1d(x, weight.squeeze(1), activation="silu")[:, :, self.look_ahead :].transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, the paper's equation 8, without positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise InputError(f"MambaVision's num_heads {num_heads} must divide the {width} channels of their stage")
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(windows, tokens, channels) to the same."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (windows, heads, tokens, channels / heads) each
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        check_at_least("the hidden channels of MambaVision's MLPs, mlp_ratio times width,", hidden, 1)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, tokens, channels) to the same."""
        return self.fc2(F.gelu(self.fc1(x)))


# The official factories. Forms differ in what they were trained on and, for other image sizes, in their windows.
_T = partial(MambaVision, width=80, stem_width=32, num_heads=(8, 16), drop_path=0.2)
_L = partial(MambaVision, width=196, stem_width=64, num_heads=(16, 32), layer_scale=1e-5, drop_path=0.3)
_B = partial(
    MambaVision,
    depths=(3, 3, 10, 5),
    width=128,
    stem_width=64,
    num_heads=(8, 16),
    layer_scale=1e-5,
    drop_path=0.3,
)
_L2 = partial(_L, depths=(3, 3, 12, 5))
_L3 = partial(_L, depths=(3, 3, 20, 10), width=256, window_sizes=(16, 8), drop_path=0.5)
VARIANTS: dict[str, Callable[[], MambaVision]] = {
    "mambavision_t": partial(_T, depths=(1, 3, 8, 4)),
    "mambavision_t2": partial(_T, depths=(1, 3, 11, 4)),
    "mambavision_s": partial(_T, depths=(3, 3, 7, 5), width=96, stem_width=64),
    "mambavision_b": _B,
    "mambavision_b_21k": _B,
    "mambavision_l": partial(_L, depths=(3, 3, 10, 5)),
    "mambavision_l_21k": partial(_L, depths=(3, 3, 10, 5)),
    "mambavision_l2": _L2,
    "mambavision_l2_512_21k": partial(_L2, window_sizes=(32, 16)),
    "mambavision_l3": _L3,
    "mambavision_l3_256_21k": _L3,
    "mambavision_l3_512_21k": partial(_L3, window_sizes=(32, 16)),
}

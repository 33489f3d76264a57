"""VMamba: visual state space blocks, whose selective scans cross an image along four routes.

"VMamba: Visual State Space Model" (Liu et al. 2024, arXiv 2401.10166), as in the official `MzeroMiko/VMamba`
(`classification/models/vmamba.py`), in the two generations that have published weights: the first ("v0", also
called vanilla VMamba) and the present one ("v05_noz"). Tensors are (batch, height, width, channels) inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images
from mambarium.backbones.layers.conv_nhwc import ConvNHWC
from mambarium.backbones.layers.drop_path import DropPath, drop_path_rates
from mambarium.backbones.layers.linear import Linear
from mambarium.backbones.layers.output_norms import OutputNorms
from mambarium.backbones.layers.selective_ssm import reset_delta_bias
from mambarium.errors import InputError
from mambarium.kernels import grid_scan
from mambarium.kernels.grid.routes import CROSS, Route

ForwardType: TypeAlias = Literal["v0", "v05_noz"]


class VMamba(VisionBackbone):
    """VMamba, from images to one map per stage.

    The two generations differ in their parts, by `forward_type`:

    | | v0 | v05_noz |
    |---|---|---|
    | stem | patches that do not overlap | two 3x3 convolutions |
    | between stages | 2x2 pixels merged, norm, projection | 3x3 convolution, norm |
    | SS2D | output gated, biased depthwise convolution | no gate, no bias |

    and as published in their sizes: v0 has d_state 16, ssm_ratio 2 and mlp_ratio 0, v05_noz has d_state 1, ssm_ratio 1
    or 2 and mlp_ratio 4. The maps are the stages' outputs before any norm; `output_norms` makes the norms that dense
    tasks put on them.

    Args:
        forward_type: The generation, "v05_noz" (present) or "v0" (first).
        depths: Number of blocks of each stage.
        widths: Channels of each stage.
        stem_stride: How much the stem reduces height and width: 4 as published, 1 or 2 for small images.
        d_state: Size of one channel's state.
        ssm_ratio: Channels that are scanned per channel of a stage.
        mlp_ratio: Hidden channels of a block's MLP per channel of a stage; 0 leaves the MLP out.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
    """

    def __init__(
        self,
        forward_type: ForwardType = "v05_noz",
        depths: tuple[int, ...] = (2, 2, 4, 2),
        widths: tuple[int, ...] = (32, 64, 128, 256),
        stem_stride: Literal[1, 2, 4] = 4,
        d_state: int = 1,
        ssm_ratio: float = 1.0,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if forward_type not in ("v0", "v05_noz"):
            raise InputError(f"VMamba's forward_type must be 'v0' or 'v05_noz', got {forward_type!r}")
        if len(depths) != len(widths) or not depths:
            raise InputError(
                f"VMamba needs as many depths as widths, at least one, got {len(depths)} and {len(widths)}"
            )
        check_at_least("every one of depths", min(depths), 1)
        check_at_least("every one of widths", min(widths), 2)
        check_at_least("d_state", d_state, 1)
        if int(ssm_ratio * min(widths)) < 1:
            raise InputError(
                f"VMamba's ssm_ratio must leave a channel of the smallest width {min(widths)}, got {ssm_ratio}"
            )
        if mlp_ratio != 0 and int(mlp_ratio * min(widths)) < 1:
            raise InputError(
                f"VMamba's mlp_ratio must be 0 or leave a channel of the smallest width {min(widths)}, got {mlp_ratio}"
            )
        if stem_stride not in (1, 2, 4):
            raise InputError(f"VMamba's stem_stride must be 1, 2 or 4, got {stem_stride}")
        first = forward_type == "v0"
        self.depths = tuple(depths)
        self.size_divisibility = stem_stride if first else 1
        self.feature_info = tuple(FeatureInfo(width, stem_stride * 2**i) for i, width in enumerate(widths))

        self.stem = (PatchStem if first else ConvStem)(widths[0], stem_stride)
        self.downsample_layers = nn.ModuleList(
            (PatchMerging if first else ConvDownsample)(before, after) for before, after in pairwise(widths)
        )
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(VSSBlock(width, d_state, ssm_ratio, mlp_ratio, first, next(rates)) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )

    def forward(self, images: Tensor) -> VisionFeatures:
        """One map per stage of images (batch, 3, height, width).

        Raises:
            InputError: If the images do not have 3 channels, or the stem's patches do not cover them exactly (v0).
        """
        check_images(images)
        height, width = images.shape[-2:]
        if height % self.size_divisibility or width % self.size_divisibility:
            raise InputError(
                f"VMamba v0 with stem_stride {self.size_divisibility} takes height and width that are multiples of "
                f"it, got {height}x{width}"
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
            stage = 0 if part == "stem" else int(index) + (1 if part == "blocks" else 2)
            stages[stage].append(name)
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


class VSSBlock(nn.Module):
    """Visual state space block: x + SS2D(norm(x)), then x + MLP(norm(x)) if there is an MLP.

    Args:
        width: Channels.
        d_state: Size of one channel's state.
        ssm_ratio: Channels that are scanned per channel.
        mlp_ratio: Hidden channels of the MLP per channel; 0 leaves it out.
        gate: Whether SS2D has a gate and its convolution a bias.
        drop_path: Probability of dropping a branch for a sample in training.
    """

    def __init__(
        self, width: int, d_state: int, ssm_ratio: float, mlp_ratio: float, gate: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.ss2d = SS2D(width, d_state, int(ssm_ratio * width), gate, GridScan(CROSS))
        self.drop_path = DropPath(drop_path)
        self.mlp = None if mlp_ratio == 0 else Mlp(width, int(mlp_ratio * width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        x = x + self.drop_path(self.ss2d(self.norm(x)))
        return x if self.mlp is None else x + self.drop_path(self.mlp(x))


class SS2D(nn.Module):
    """2D selective scan: each pixel hears of all others along four routes.

    Equal in both generations but for the gate and the convolution's bias:

        x = silu(conv(in_proj(x))),  and for each route k
        delta_low_k, B_k, C_k = x_proj_k(x),  delta_k = softplus(dt_proj_k(delta_low_k))
        y = norm(sum over k of scan_k(x, delta_k, A_k, B_k, C_k) + D_k x)
        out = out_proj(y)  or, with gate z (the other half of in_proj),  out_proj(y silu(z))

    Args:
        width: Channels.
        d_state: Size of one channel's state.
        d_inner: Channels that are scanned.
        gate: Whether there is a gate and the convolution has a bias.
        scan: The scans along the routes.
    """

    def __init__(self, width: int, d_state: int, d_inner: int, gate: bool, scan: GridScan) -> None:
        super().__init__()
        self.d_state, self.gate, self.dt_rank = d_state, gate, math.ceil(width / 16)
        self.scan = scan
        num_routes = len(scan.routes)
        self.in_proj = Linear(width, 2 * d_inner if gate else d_inner, bias=False)
        self.conv2d = ConvNHWC(d_inner, d_inner, 3, padding=1, groups=d_inner, bias=gate)
        self.x_proj_weight = nn.Parameter(torch.empty(num_routes, self.dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(num_routes, d_inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(num_routes, d_inner))
        self.A_logs = nn.Parameter(torch.empty(num_routes * d_inner, d_state, dtype=torch.float32))
        self.Ds = nn.Parameter(torch.empty(num_routes * d_inner, dtype=torch.float32))
        self.out_norm = nn.LayerNorm(d_inner, eps=1e-5)
        self.out_proj = Linear(d_inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The selective scans as in Mamba: A = -(1..d_state), D = 1, softplus(delta bias) in [0.001, 0.1]."""
        bound = self.x_proj_weight.shape[2] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        bound = self.dt_rank**-0.5
        self.dt_projs_weight.uniform_(-bound, bound)
        reset_delta_bias(self.dt_projs_bias)
        self.A_logs.copy_(torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_logs.device).log())
        self.Ds.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        projected = self.in_proj(x)
        x, z = projected.chunk(2, dim=-1) if self.gate else (projected, None)
        x = F.silu(self.conv2d(x))  # (batch, height, width, d_inner)
        # Of a pixel's own values alone, so that they need no order yet.
        num_routes = len(self.scan.routes)
        selected = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (num_routes, -1))
        delta_low, B, C = selected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = torch.einsum("bhwkr,kdr->bhwkd", delta_low, self.dt_projs_weight)
        A = -torch.exp(self.A_logs.float()).unflatten(0, (num_routes, -1))  # (routes, d_inner, d_state)
        # The outputs of the routes are added up in float32, whatever the input.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        y = self.scan(x, delta, A, B, C, self.Ds.unflatten(0, (num_routes, -1)), self.dt_projs_bias)
        y = self.out_norm(y.to(self.out_norm.weight.dtype))
        return self.out_proj(y if z is None else y * F.silu(z))


class GridScan(nn.Module):
    """Selective scans along routes over an image, summed.

    Args:
        routes: The routes.
    """

    # Training compiles the kernels of models that have it before the first step.
    uses_grid_scan = True

    def __init__(self, routes: tuple[Route, ...]) -> None:
        super().__init__()
        self.routes = routes

    def forward(
        self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
    ) -> Tensor:
        """The sum over the routes.

        Args:
            x: (batch, height, width, d_inner).
            delta: Time step before bias and softplus, (batch, height, width, routes, d_inner).
            A: (routes, d_inner, d_state).
            B: (batch, height, width, routes, d_state).
            C: As B.
            D: Skip weight, (routes, d_inner).
            delta_bias: (routes, d_inner).

        Returns:
            (batch, height, width, d_inner) of x's type.
        """
        return scan_channels_last(x, delta, A, B, C, D, delta_bias, self.routes)


def scan_channels_last(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, routes: tuple[Route, ...]
) -> Tensor:
    """`grid_scan` on channels-last tensors, shapes as in `GridScan`; nothing is copied."""
    delta, B, C = (values.permute(0, 3, 4, 1, 2) for values in (delta, B, C))
    y = grid_scan(x.permute(0, 3, 1, 2), delta, A, B, C, D, delta_bias, delta_softplus=True, routes=routes)
    return y.permute(0, 2, 3, 1)


class Mlp(nn.Module):
    """Norm, expansion, GELU, projection.

    Args:
        width: Channels.
        hidden: Hidden channels.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class PatchStem(nn.Module):
    """Linear projection of patches that do not overlap, and a norm (v0).

    Args:
        width: Output channels.
        stride: Height and width of a patch.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvNHWC(3, width, stride, stride=stride)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, 3) to (batch, height / stride, width / stride, channels)."""
        return self.norm(self.conv(x))


class ConvStem(nn.Module):
    """Two 3x3 convolutions, each followed by a norm, with a GELU between (v05_noz).

    Args:
        width: Output channels.
        stride: Reduction of height and width by both together.
    """

    def __init__(self, width: int, stride: Literal[1, 2, 4]) -> None:
        super().__init__()
        first, second = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[stride]
        self.conv1 = ConvNHWC(3, width // 2, 3, stride=first, padding=1)
        self.norm1 = nn.LayerNorm(width // 2, eps=1e-5)
        self.conv2 = ConvNHWC(width // 2, width, 3, stride=second, padding=1)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, 3) to (batch, ceil(height / stride), ceil(width / stride), channels)."""
        return self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))


class PatchMerging(nn.Module):
    """Swin's patch merging: 2x2 pixels side by side, norm, projection (v0). Odd sizes get a row or column of zeros.

    Args:
        before: Input channels.
        after: Output channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.merged_norm = nn.LayerNorm(4 * before, eps=1e-5)
        self.reduction = Linear(4 * before, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, before) to (batch, ceil(height / 2), ceil(width / 2), after)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # From (top left, bottom left, top right, bottom right).
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.merged_norm(torch.cat(corners, dim=-1)))


class ConvDownsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm (v05_noz).

    Args:
        before: Input channels.
        after: Output channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = ConvNHWC(before, after, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(after, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, before) to (batch, ceil(height / 2), ceil(width / 2), after)."""
        return self.norm(self.conv(x))


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
        """VMamba's features to logits (batch, num_classes)."""
        return self.head(self.norm(features.maps[-1].permute(0, 2, 3, 1)).mean(dim=(1, 2)))


_TINY_SMALL, _BASE = (96, 192, 384, 768), (128, 256, 512, 1024)
_V0 = partial(VMamba, "v0", d_state=16, ssm_ratio=2.0, mlp_ratio=0.0)
_S2 = partial(VMamba, "v05_noz", d_state=1, ssm_ratio=2.0, mlp_ratio=4.0)
_S1 = partial(VMamba, "v05_noz", d_state=1, ssm_ratio=1.0, mlp_ratio=4.0)

# The official factories with the drop path of their training configurations. "s2l5" means ssm_ratio 2 and 5 blocks in
# the third stage; the published files of the s2 layout are named `vssm_*`, those of the s1 layout `vssm1_*`.
VARIANTS: dict[str, Callable[[], VMamba]] = {
    "vmamba_tiny_v0": partial(_V0, depths=(2, 2, 9, 2), widths=_TINY_SMALL, drop_path=0.2),
    "vmamba_small_v0": partial(_V0, depths=(2, 2, 27, 2), widths=_TINY_SMALL, drop_path=0.3),
    "vmamba_base_v0": partial(_V0, depths=(2, 2, 27, 2), widths=_BASE, drop_path=0.6),
    "vmamba_tiny_s2l5": partial(_S2, depths=(2, 2, 5, 2), widths=_TINY_SMALL, drop_path=0.2),
    "vmamba_small_s2l15": partial(_S2, depths=(2, 2, 15, 2), widths=_TINY_SMALL, drop_path=0.3),
    "vmamba_base_s2l15": partial(_S2, depths=(2, 2, 15, 2), widths=_BASE, drop_path=0.6),
    "vmamba_tiny_s1l8": partial(_S1, depths=(2, 2, 8, 2), widths=_TINY_SMALL, drop_path=0.2),
    "vmamba_small_s1l20": partial(_S1, depths=(2, 2, 20, 2), widths=_TINY_SMALL, drop_path=0.3),
    "vmamba_base_s1l20": partial(_S1, depths=(2, 2, 20, 2), widths=_BASE, drop_path=0.5),
}

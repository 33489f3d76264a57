"""VMamba: visual state space blocks, whose selective scans cross an image along four routes.

"VMamba: Visual State Space Model" (Liu et al. 2024, arXiv 2401.10166), as in the official `MzeroMiko/VMamba`
(`classification/models/vmamba.py`), in the two generations that have published weights: the first ("v0", also
called vanilla VMamba) and the present one ("v05_noz"). Tensors are (batch, height, width, channels) inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import KernelUser
from mambarium.backbones.layers.arguments import check_at_least, check_choice
from mambarium.backbones.layers.convolutions import ConvDownsample, ConvNHWC, ConvStem, Linear
from mambarium.backbones.layers.drop_path import DropPath
from mambarium.backbones.layers.selective_ssm import reset_delta, reset_s4d_real
from mambarium.backbones.vision.vmamba.vss_stages import VSSStages
from mambarium.errors import InputError
from mambarium.kernels import grid_scan
from mambarium.kernels.grid.routes import CROSS, Route

ForwardType: TypeAlias = Literal["v0", "v05_noz"]
_LAYER_NORM = partial(nn.LayerNorm, eps=1e-5)


class VMamba(VSSStages):
    """VMamba, from images to one map per stage.

    The two generations differ in their parts, by `forward_type`:

    | | v0 | v05_noz |
    |---|---|---|
    | stem | patches that do not overlap | two 3x3 convolutions |
    | between stages | 2x2 pixels merged, norm, projection | 3x3 convolution, norm |
    | SS2D | output gated, biased depthwise convolution | no gate, no bias |

    and as published in their sizes: v0 has d_state 16, ssm_ratio 2 and mlp_ratio 0, v05_noz has d_state 1, ssm_ratio 1
    or 2 and mlp_ratio 4. The maps are the stages' outputs before any norm.

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
        check_choice("VMamba's forward_type", forward_type, get_args(ForwardType))
        check_at_least("every one of widths", min(widths, default=2), 2)
        first = forward_type == "v0"
        super().__init__(
            depths,
            widths,
            stem_stride,
            stem_stride if first else 1,
            drop_path,
            stem=PatchStem if first else _conv_stem,
            downsampling=PatchMerging if first else partial(ConvDownsample, conv=ConvNHWC, norm=_LAYER_NORM),
            block=lambda width, rate: VSSBlock(width, d_state, ssm_ratio, mlp_ratio, first, rate),
        )


class VSSBlock(nn.Module):
    """Visual state space block: x + SS2D(norm(x)), then x + MLP(norm(x)) if there is an MLP."""

    def __init__(
        self,
        width: int,
        d_state: int,
        ssm_ratio: float,
        mlp_ratio: float,
        gate: bool,
        drop_path: float,
        scan: GridScan | None = None,
    ) -> None:
        super().__init__()
        if mlp_ratio != 0 and int(mlp_ratio * width) < 1:
            raise InputError(f"mlp_ratio must be 0 or leave a channel of a stage's {width}, got {mlp_ratio}")
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.ss2d = SS2D(width, d_state, ssm_ratio, gate, scan or GridScan(CROSS))
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
        ssm_ratio: Channels that are scanned per channel.
        gate: Whether there is a gate and the convolution has a bias.
        scan: The scans along the routes.
        activation: Of the convolution's output and of the gate.

    Raises:
        InputError: If there is no state or no channel to scan.
    """

    no_weight_decay = ("A_logs", "Ds", "dt_projs_bias")

    def __init__(
        self,
        width: int,
        d_state: int,
        ssm_ratio: float,
        gate: bool,
        scan: GridScan,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        check_at_least("d_state", d_state, 1)
        d_inner = int(ssm_ratio * width)
        if d_inner < 1:
            raise InputError(f"ssm_ratio must leave a channel of a stage's {width}, got {ssm_ratio}")
        self.d_state, self.gate, self.dt_rank = d_state, gate, math.ceil(width / 16)
        self.scan = scan
        self.activation = activation
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
        """Draw the selective scans as in Mamba: A = -(1..d_state), D = 1, softplus(delta bias) in [0.001, 0.1]."""
        bound = self.x_proj_weight.shape[2] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        reset_delta(self.dt_projs_weight, self.dt_projs_bias)
        reset_s4d_real(self.A_logs, self.Ds)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        projected = self.in_proj(x)
        x, z = projected.chunk(2, dim=-1) if self.gate else (projected, None)
        x = self.activation(self.conv2d(x))  # (batch, height, width, d_inner)
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
        return self.out_proj(y if z is None else y * self.activation(z))


class GridScan(KernelUser, nn.Module):
    """Selective scans along routes over an image, summed."""

    operations = (grid_scan,)

    def __init__(self, routes: tuple[Route, ...]) -> None:
        super().__init__()
        self.routes = routes

    def forward(
        self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
    ) -> Tensor:
        """Return the sum over the routes.

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
    """Norm, expansion, GELU, projection."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class PatchStem(nn.Module):
    """Linear projection of patches that do not overlap, and a norm (v0)."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvNHWC(3, width, stride, stride=stride)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, 3) to (batch, height / stride, width / stride, channels)."""
        return self.norm(self.conv(x))


def _conv_stem(width: int, stride: Literal[1, 2, 4]) -> ConvStem:
    return ConvStem(width // 2, width, stride, ConvNHWC, _LAYER_NORM)


class PatchMerging(nn.Module):
    """Swin's patch merging: 2x2 pixels side by side, norm, projection (v0). Odd sizes get a row or column of zeros."""

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

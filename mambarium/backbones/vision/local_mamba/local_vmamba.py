"""LocalVMamba: VMamba whose blocks scan the image along four routes of their own, in windows among them.

"LocalMamba: Visual State Space Model with Windowed Selective Scan" (Huang et al. 2024, arXiv 2403.09338), as in the
official `hunto/LocalMamba` (`local_vmamba.py`): VMamba of the first generation but for its scans. Tensors are (batch,
height, width, channels) inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.layers.arguments import check_at_least
from mambarium.backbones.layers.drop_path import DropPath
from mambarium.backbones.layers.routes import route_named
from mambarium.backbones.vision.local_mamba.local_scan import ChannelGate
from mambarium.backbones.vision.vmamba.vmamba_backbone import (
    SS2D,
    GridScan,
    PatchMerging,
    PatchStem,
    scan_channels_last,
)
from mambarium.backbones.vision.vmamba.vss_stages import VSSStages
from mambarium.errors import InputError
from mambarium.kernels.grid.routes import Route

# The routes of the paper without search.
_UNSEARCHED = ("rows", "rows_backwards", "window_2", "window_2_backwards")


class LocalVMamba(VSSStages):
    """LocalVMamba, from images to one map per stage.

    The maps are the stages' outputs before any norm; `output_norms` makes the norms that dense tasks put on them.

    Args:
        depths: Number of blocks of each stage.
        widths: Channels of each stage.
        routes: The routes of each block, any number; as many entries as blocks in all. A route is "rows", "columns" or
            "window_N" (window by window of NxN pixels of the stage), each also with "_backwards".
        stem_stride: Height and width of the stem's patches: 4 as published, 1 or 2 for small images.
        d_state: Size of one channel's state.
        ssm_ratio: Channels that are scanned per channel of a stage.
        drop_path: Probability of dropping the last block for a sample in training; linearly less before.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2),
        widths: tuple[int, ...] = (32, 64),
        routes: tuple[tuple[str, ...], ...] = (_UNSEARCHED,) * 4,
        stem_stride: Literal[1, 2, 4] = 4,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        if len(routes) != sum(depths):
            raise InputError(f"LocalVMamba needs routes for each of its {sum(depths)} blocks, got {len(routes)}")
        check_at_least("the number of routes of a LocalVMamba block", min(map(len, routes), default=1), 1)
        of_block = iter(routes)
        super().__init__(
            depths,
            widths,
            stem_stride,
            stem_stride,
            drop_path,
            stem=PatchStem,
            downsampling=PatchMerging,
            block=lambda width, rate: LocalVSSBlock(width, d_state, ssm_ratio, next(of_block), rate),
        )


class LocalVSSBlock(nn.Module):
    """Visual state space block: x + SS2D(norm(x)).

    Args:
        width: Channels.
        d_state: Size of one channel's state.
        ssm_ratio: Channels that are scanned per channel.
        routes: Names of the block's routes.
        drop_path: Probability of dropping the block for a sample in training.
    """

    def __init__(self, width: int, d_state: int, ssm_ratio: float, routes: tuple[str, ...], drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        scan = LocalScan(tuple(map(route_named, routes)), int(ssm_ratio * width))
        self.ss2d = SS2D(width, d_state, ssm_ratio, gate=True, scan=scan)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) to the same."""
        return x + self.drop_path(self.ss2d(self.norm(x)))


class LocalScan(GridScan):
    """Selective scans along routes over an image, each one's output gated, summed.

    Windows that stick out of the map are filled with zeros, which take part in the scan.

    Args:
        routes: The routes.
        d_inner: Channels that are scanned.
    """

    def __init__(self, routes: tuple[Route, ...], d_inner: int) -> None:
        super().__init__(routes)
        self.gate = ChannelGate(d_inner)

    def forward(
        self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
    ) -> Tensor:
        """As `GridScan`."""
        height, width = x.shape[1:3]
        total = torch.zeros_like(x)
        for k, route in enumerate(self.routes):
            one = slice(k, k + 1)
            u, delta_k, B_k, C_k = (
                _fill_windows(values, route.window_size)
                for values in (x, delta[:, :, :, one], B[:, :, :, one], C[:, :, :, one])
            )
            y = scan_channels_last(u, delta_k, A[one], B_k, C_k, D[one], delta_bias[one], (route,))
            total = total + self.gate(y[:, :height, :width])
        return total


def _fill_windows(values: Tensor, window_size: int) -> Tensor:
    """Zeros to the right and below of (batch, height, width, ...) until windows fit; a size of 0 is no window."""
    height, width = values.shape[1:3]
    right, below = (-width % window_size, -height % window_size) if window_size else (0, 0)
    if not right and not below:
        return values
    return F.pad(values, (0, 0) * (values.ndim - 3) + (0, right, 0, below))


_H, _H_, _V, _V_ = "rows", "rows_backwards", "columns", "columns_backwards"
_W2, _W2_, _W7, _W7_ = "window_2", "window_2_backwards", "window_7", "window_7_backwards"

# What the search found for each model.
_TINY = (
    (_H, _H_, _W7, _W7_),
    (_H_, _V_, _W2, _W2_),
    (_H_, _V_, _W2_, _W7),
    (_H_, _V, _V_, _W2),
    (_H, _H_, _V_, _W2_),
    (_H_, _V_, _W2, _W2_),
    (_H, _W2_, _W7, _W7_),
    (_H, _H_, _V, _V_),
    (_H, _V_, _W7, _W7_),
    (_H_, _V, _W2, _W7_),
    (_V, _V_, _W2, _W7_),
    (_H, _H_, _V_, _W2_),
    (_V_, _W2_, _W7, _W7_),
    (_H_, _V_, _W2_, _W7_),
    (_H_, _V, _W7, _W7_),
)
_SMALL = (
    (_H, _V, _V_, _W7_),
    (_H, _H_, _V, _W7),
    (_H_, _V, _V_, _W7),
    (_H_, _V, _W2_, _W7),
    (_H_, _V, _W2_, _W7),
    (_H_, _V_, _W2, _W7_),
    (_H_, _V, _V_, _W7),
    (_H, _V, _V_, _W7),
    (_H, _V, _V_, _W7),
    (_H, _V, _V_, _W7_),
    (_H, _H_, _V, _V_),
    (_H, _V, _V_, _W2),
    (_V, _V_, _W2_, _W7),
    (_H, _H_, _V, _W2),
    (_H_, _V, _V_, _W7_),
    (_H, _H_, _V, _V_),
    (_H, _V, _V_, _W7_),
    (_H, _V, _V_, _W7_),
    (_H, _H_, _V_, _W7),
    (_H_, _V_, _W2_, _W7),
    (_H_, _V, _V_, _W7_),
    (_V, _V_, _W7, _W7_),
    (_H, _V, _V_, _W7_),
    (_H_, _V, _V_, _W2),
    (_H, _V, _V_, _W2_),
    (_H, _H_, _V, _W7),
    (_H, _H_, _W7, _W7_),
    (_H, _V_, _W2, _W2_),
    (_H, _V_, _W2, _W7),
    (_H, _V, _V_, _W7_),
    (_H_, _V, _W2_, _W7),
    (_H_, _V_, _W7, _W7_),
    (_H, _V, _W7, _W7_),
)
_PUBLISHED = partial(LocalVMamba, widths=(96, 192, 384, 768), drop_path=0.2)

# Table 1 of the paper and the official factories.
VARIANTS: dict[str, Callable[[], LocalVMamba]] = {
    "local_vmamba_tiny": partial(_PUBLISHED, depths=(2, 2, 9, 2), routes=_TINY),
    "local_vmamba_small": partial(_PUBLISHED, depths=(2, 2, 27, 2), routes=_SMALL),
}

"""LocalVMamba: VMamba whose blocks scan the image along four routes of their own, in windows among them.

"LocalMamba: Visual State Space Model with Windowed Selective Scan" (Huang et al. 2024, arXiv 2403.09338), as in the
official `hunto/LocalMamba` (`local_vmamba.py`): VMamba of the first generation but for its scans. Tensors are (batch,
height, width, channels) inside.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mambarium.backbones.layers.arguments import check_at_least
from mambarium.backbones.layers.routes import route_named
from mambarium.backbones.vision.local_mamba.local_scan import UNSEARCHED, ChannelGate, routes_of
from mambarium.backbones.vision.vmamba.vmamba_backbone import (
    GridScan,
    PatchMerging,
    PatchStem,
    VSSBlock,
    scan_channels_last,
)
from mambarium.backbones.vision.vmamba.vss_stages import VSSStages
from mambarium.errors import InputError
from mambarium.kernels.grid.routes import Route


class LocalVMamba(VSSStages):
    """LocalVMamba, from images to one map per stage.

    The maps are the stages' outputs before any norm.

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
        routes: tuple[tuple[str, ...], ...] = (UNSEARCHED,) * 4,
        stem_stride: Literal[1, 2, 4] = 4,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        if len(routes) != sum(depths):
            raise InputError(f"LocalVMamba needs routes for each of its {sum(depths)} blocks, got {len(routes)}")
        check_at_least("the number of routes of a LocalVMamba block", min(map(len, routes), default=1), 1)
        of_block = iter([tuple(map(route_named, names)) for names in routes])
        super().__init__(
            depths,
            widths,
            stem_stride,
            stem_stride,
            drop_path,
            stem=PatchStem,
            downsampling=PatchMerging,
            block=lambda width, rate: VSSBlock(
                width, d_state, ssm_ratio, 0.0, True, rate, LocalScan(next(of_block), int(ssm_ratio * width))
            ),
        )


class LocalScan(GridScan):
    """Selective scans along routes over an image, each one's output gated, summed.

    Windows that stick out of the map are filled with zeros, which take part in the scan.
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


# What the search found for each model.
_TINY = routes_of(
    "h h' w7 w7', h' v' w2 w2', h' v' w2' w7, h' v v' w2, h h' v' w2', h' v' w2 w2', h w2' w7 w7', "
    "h h' v v', h v' w7 w7', h' v w2 w7', v v' w2 w7', h h' v' w2', v' w2' w7 w7', h' v' w2' w7', "
    "h' v w7 w7'"
)
_SMALL = routes_of(
    "h v v' w7', h h' v w7, h' v v' w7, h' v w2' w7, h' v w2' w7, h' v' w2 w7', h' v v' w7, "
    "h v v' w7, h v v' w7, h v v' w7', h h' v v', h v v' w2, v v' w2' w7, h h' v w2, h' v v' w7', "
    "h h' v v', h v v' w7', h v v' w7', h h' v' w7, h' v' w2' w7, h' v v' w7', v v' w7 w7', "
    "h v v' w7', h' v v' w2, h v v' w2', h h' v w7, h h' w7 w7', h v' w2 w2', h v' w2 w7, h v v' w7', "
    "h' v w2' w7, h' v' w7 w7', h v w7 w7'"
)
_PUBLISHED = partial(LocalVMamba, widths=(96, 192, 384, 768), drop_path=0.2)

# Table 1 of the paper and the official factories.
VARIANTS: dict[str, Callable[[], LocalVMamba]] = {
    "local_vmamba_tiny": partial(_PUBLISHED, depths=(2, 2, 9, 2), routes=_TINY),
    "local_vmamba_small": partial(_PUBLISHED, depths=(2, 2, 27, 2), routes=_SMALL),
}

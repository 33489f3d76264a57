"""Scans over routes in plain PyTorch: gathers, selective scans, scatters."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.kernels.scan.reference import selective_scan_reference


def grid_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    routes: Sequence[Route],
) -> Tensor:
    """Return the sum over routes of selective scans; shapes as in `grid_scan`, any real dtype.

    Each route's inputs are gathered in its order, scanned by `selective_scan_reference`, and the outputs are put
    back.
    """
    height, width = u.shape[-2:]
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    orders = torch.from_numpy(visited_positions(tuple(routes), height, width).astype(np.int64)).to(u.device)
    shared = u.dim() == 4
    total = None
    for route, order in enumerate(orders):

        def visit(x: Tensor, order: Tensor = order) -> Tensor:
            return x.flatten(-2)[..., order]

        y, _ = selective_scan_reference(
            visit(u if shared else u[:, route]).to(dtype),
            visit(delta[:, route]),
            A[route],
            visit(B[:, route]),
            visit(C[:, route]),
            None if D is None else D[route],
            None,
            None if delta_bias is None else delta_bias[route],
            delta_softplus,
        )
        out = y[..., order.argsort()].unflatten(-1, (height, width))
        total = out if total is None else total + out
    assert total is not None
    channel_last = u.stride(-3) < u.stride(-1)
    layout = torch.channels_last if channel_last else torch.contiguous_format
    return total.to(u.dtype).contiguous(memory_format=layout)

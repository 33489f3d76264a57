"""The grid scan as one selective scan of gathered inputs, for backends without kernels that follow index maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mambarium.kernels.backend import Backend
from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.kernels.scan.selective_scan import selective_scan


class _Reorder(torch.autograd.Function):
    """Takes positions in an order, and gradients back in the inverse order: neither adds up anything."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return torch.take_along_dim(x, order[None, :, :, None], dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(grads[0], inverse, order), None, None


def grid_scan_gathered(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    routes: Sequence[Route],
    backend: Backend,
) -> Tensor:
    """Copies each route's inputs into its order and scans all routes at once, as groups of channels.

    Args:
        u, delta, A, B, C, D, delta_bias, delta_softplus, routes: as in `grid_scan`.
        backend: of `selective_scan`.

    Returns:
        (batch, dim, height, width), channel-last in memory.
    """
    height, width = u.shape[-2:]
    maps = visited_positions(tuple(routes), height, width).astype(np.int64)
    order = torch.from_numpy(maps.T.copy()).to(u.device)  # (length, routes)
    inverse = torch.from_numpy(maps.argsort(axis=1).T.copy()).to(u.device)

    def visit(x: Tensor) -> Tensor:
        rows = x.permute(0, 3, 4, 1, 2).flatten(1, 2)  # (batch, length, routes, channels)
        return _Reorder.apply(rows.expand(-1, -1, len(routes), -1), order, inverse)

    out = selective_scan(
        visit(u.unsqueeze(1) if u.dim() == 4 else u).flatten(2).transpose(1, 2),
        visit(delta).flatten(2).transpose(1, 2),
        A.flatten(0, 1),
        visit(B).permute(0, 2, 3, 1),
        visit(C).permute(0, 2, 3, 1),
        None if D is None else D.flatten(),
        None,
        None if delta_bias is None else delta_bias.flatten(),
        delta_softplus,
        backend=backend,
    )
    by_step = out.transpose(1, 2).unflatten(2, (len(routes), -1))  # (batch, length, routes, dim)
    total = _Reorder.apply(by_step, inverse, order).sum(2, dtype=torch.float32).to(u.dtype)
    return total.unflatten(1, (height, width)).permute(0, 3, 1, 2)

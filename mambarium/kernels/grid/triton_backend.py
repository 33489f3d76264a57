"""The grid scan on a GPU: the Triton kernels of the scan, whose groups are the routes.

Every route reads u, delta and the gradient of the output where they lie, and writes there too, by its order of
visits; no copies of them are made. B and C are read in place by the forward; the backward copies them into the tiles
that it visits. Each route's output is written in float32, as is its share of the gradient of a u that all routes
share; a second stage adds them up in a fixed order.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.kernels.layout import laid_out_as
from mambarium.kernels.scan import triton_launches
from mambarium.kernels.scan.triton_launches import Order, Scan, copied_as, run_backward, run_forward


def checkpoint_shape(batch: int, length: int, routes: int, dim: int, d_state: int) -> tuple[int, ...]:
    """See `mambarium.kernels.grid.interface.GridBackend`."""
    return triton_launches.checkpoint_shape(batch, length, routes * dim, d_state)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[Route],
    delta_softplus: bool,
    save_for_backward: bool,
) -> tuple[Tensor, Tensor]:
    """Scans; see `mambarium.kernels.grid.interface.GridBackend`."""
    scan = as_scan(u, delta, A, B, C, D, delta_bias, routes, delta_softplus)
    parts = torch.empty(scan.delta.shape, dtype=torch.float32, device=u.device)  # (batch, length, routes, dim)
    _, checkpoints = run_forward(scan, parts, save_for_backward)
    out = torch.empty_like(u.select(3, 0))
    return out.copy_(parts.sum(2).unflatten(1, u.shape[1:3])), checkpoints


def scan_backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[Route],
    delta_softplus: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs; see `mambarium.kernels.grid.interface.GridBackend`."""
    scan = as_scan(u, delta, A, B, C, D, delta_bias, routes, delta_softplus)
    grid = u.shape[1:3]
    own = u.shape[3] == len(routes)
    dtype = u.dtype if own else torch.float32
    parts = torch.empty(scan.delta.shape, dtype=dtype, device=u.device)
    grads = run_backward(scan, grad_out.flatten(1, 2).unsqueeze(2), None, checkpoints, parts)
    grad_u = grads.u if own else grads.u.sum(2, keepdim=True)
    return (
        laid_out_as(grad_u.unflatten(1, grid), u),
        laid_out_as(grads.delta.unflatten(1, grid), delta),
        copied_as(A, grads.A),
        torch.empty_like(B).copy_(grads.B.unflatten(1, grid)),
        torch.empty_like(C).copy_(grads.C.unflatten(1, grid)),
        copied_as(D, grads.D),
        copied_as(delta_bias, grads.delta_bias),
    )


def as_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[Route],
    delta_softplus: bool,
) -> Scan:
    """The scan whose groups are the routes."""
    return Scan(
        u.flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        B.flatten(1, 2),
        C.flatten(1, 2),
        D=None if D is None else D.flatten(),
        delta_bias=None if delta_bias is None else delta_bias.flatten(),
        delta_softplus=delta_softplus,
        order=_order(tuple(routes), u.shape[1], u.shape[2], u.device),
    )


@functools.lru_cache(maxsize=32)  # some megabytes each for a large image
def _order(routes: tuple[Route, ...], height: int, width: int, device: torch.device) -> Order:
    maps = visited_positions(routes, height, width)
    gather = maps.T.astype(np.int64)[None, :, :, None]  # (1, length, routes, 1)
    scatter = maps.argsort(axis=1).T.astype(np.int64)[None, :, :, None]
    return Order(*(torch.from_numpy(x.copy()).to(device) for x in (maps, gather, scatter)))

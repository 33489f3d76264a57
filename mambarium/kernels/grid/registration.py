"""The grid scan as operations of torch.library: a scan whose groups are the routes, in the order of each."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.kernels.scan.description import Order, Scan
from mambarium.kernels.scan.registration import ScanLayout, input_gradients, register_scan, save_inputs
from mambarium.kernels.transforms import differentiable, differentiable_once


def encode_routes(routes: Sequence[Route]) -> list[int]:
    """Return the routes as integers, three of each one after another."""
    return [int(number) for route in routes for number in route]


def _as_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[int],
    delta_softplus: bool,
) -> Scan:
    """Return the scan whose groups are the routes.

    Args:
        u: (batch, dim, height, width), or (batch, routes, dim, height, width) where each route has its own.
        delta: (batch, routes, dim, height, width).
        A: (routes, dim, d_state) float32.
        B: (batch, routes, d_state, height, width).
        C: as B.
        D: (routes, dim) float32, or None.
        delta_bias: as D.
        routes: as `encode_routes` gives them.
        delta_softplus: whether the step is softplus of delta + delta_bias.
    """
    return Scan(
        _by_position(u).unsqueeze(2) if u.dim() == 4 else _by_position(u),
        _by_position(delta),
        A.flatten(0, 1),
        _by_position(B),
        _by_position(C),
        None if D is None else D.flatten(),
        delta_bias=None if delta_bias is None else delta_bias.flatten(),
        delta_softplus=delta_softplus,
        order=_order(tuple(routes), u.shape[-2], u.shape[-1], u.device),
    )


def _by_position(x: Tensor) -> Tensor:
    """Return (batch, [routes,] channels, height, width) as (batch, height * width, [routes,] channels)."""
    return x.flatten(-2).movedim(-1, 1)


def _memory_like(x: Tensor) -> Tensor:
    """Return memory in the layout of x, contiguous if its height and width, or routes and channels, aren't one axis."""
    memory = torch.empty_like(x)
    outer = -2 if x.dim() > 3 else 0
    adjacent = memory.stride(outer) == memory.stride(outer + 1) * memory.shape[outer + 1]
    return memory if adjacent else torch.empty_like(x, memory_format=torch.contiguous_format)


@functools.lru_cache(maxsize=32)  # some megabytes each for a large image
def _order(numbers: tuple[int, ...], height: int, width: int, device: torch.device) -> Order:
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    routes = tuple(Route(size, bool(by_columns), bool(backwards)) for size, by_columns, backwards in triples)
    return Order(torch.from_numpy(visited_positions(routes, height, width).copy()).to(device))


grid_scan_forward, _grid_scan_backward, _forward_code, _backward_code = register_scan(
    "grid_scan",
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, SymInt[] routes, "
    "bool delta_softplus",
    ScanLayout(_as_scan, _by_position, lambda u: u.select(1, 0) if u.dim() == 5 else u, _memory_like),
)
grid_backward = differentiable_once(_grid_scan_backward, _backward_code)


def _backward(ctx: Any, *incoming: Tensor | None) -> tuple[Any, ...]:
    return input_gradients(ctx, grid_backward, *incoming)


grid_forward = differentiable(grid_scan_forward, _forward_code, _backward, save_inputs)

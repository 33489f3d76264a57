"""The grid scan as operations of torch.library: a scan whose groups are the routes, in the order of each."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.kernels.scan.description import Order, Scan
from mambarium.kernels.scan.registration import input_gradients, register_scan, save_inputs
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
        u: (batch, height, width, 1 or routes, dim), like delta, B and C of any strides.
        delta: (batch, height, width, routes, dim).
        A: (routes, dim, d_state) float32.
        B: (batch, height, width, routes, d_state).
        C: as B.
        D: (routes, dim) float32, or None.
        delta_bias: as D.
        routes: as `encode_routes` gives them.
        delta_softplus: whether the step is softplus of delta + delta_bias.
    """
    return Scan(
        u.flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        B.flatten(1, 2),
        C.flatten(1, 2),
        None if D is None else D.flatten(),
        delta_bias=None if delta_bias is None else delta_bias.flatten(),
        delta_softplus=delta_softplus,
        order=_order(tuple(routes), u.shape[1], u.shape[2], u.device),
    )


@functools.lru_cache(maxsize=32)  # some megabytes each for a large image
def _order(numbers: tuple[int, ...], height: int, width: int, device: torch.device) -> Order:
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    routes = tuple(Route(size, bool(by_columns), bool(backwards)) for size, by_columns, backwards in triples)
    return Order(torch.from_numpy(visited_positions(routes, height, width).copy()).to(device))


grid_scan_forward, _grid_scan_backward, _forward_code, _backward_code = register_scan(
    "grid_scan",
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, SymInt[] routes, "
    "bool delta_softplus",
    _as_scan,
)
grid_backward = differentiable_once(_grid_scan_backward, _backward_code)


def _backward(ctx: Any, *incoming: Tensor | None) -> tuple[Any, ...]:
    return input_gradients(ctx, grid_backward, *incoming)


grid_forward = differentiable(grid_scan_forward, _forward_code, _backward, save_inputs)

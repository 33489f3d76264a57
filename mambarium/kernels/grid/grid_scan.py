"""The public grid scan: checks, choice of the backend, canonical layout."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mambarium.kernels.arguments import HALF_OR_FLOAT, REAL, check_device, check_dtype, check_shape
from mambarium.kernels.backend import Backend, choose_backend
from mambarium.kernels.grid.reference import grid_scan_reference
from mambarium.kernels.grid.registration import encode_routes, grid_forward
from mambarium.kernels.grid.routes import Route
from mambarium.kernels.transforms import under_transforms


def grid_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    routes: Sequence[Route],
    backend: Backend | None = None,
) -> Tensor:
    """Return selective scans over a grid along several routes, and the sum of their outputs at each position.

    Every route visits all positions in an order of its own (`Route`) with parameters of its own, and computes what
    `selective_scan` does in that order; the outputs are put back to where they belong and added up, as in
    VMamba's cross-scan and cross-merge (Liu et al., 2024, arXiv 2401.10166; `SS2D` of the official code, whose
    `xs`, `dts`, `As`, `Bs`, `Cs`, `Ds` this takes with the routes as an axis of their own and all positions in
    the grid's order).

    Index maps say where each step reads and writes, so no copies of u, delta, the output or their gradients are made
    in a route's order. Strides are free: memory is read and written in place wherever height and width can be one
    axis, but that of half precision on a CPU. The triton backend keeps each route's output in float32 until they are
    added up, and its backward copies B and C.

    Computed in float32 whatever the inputs' dtypes (under autocast too), deterministic for any number of threads.
    float64 is served by the reference. Under `torch.utils.flop_counter` the forward counts 9 * batch * height *
    width * routes * dim * d_state, plus one per position, route and channel for D, and the backward twice that.

    Args:
        u: input, (batch, dim, height, width) for all routes, or (batch, routes, dim, height, width) where each has
            its own (after a convolution along the route, as in Vim and LocalMamba).
        delta: step before bias and softplus, (batch, routes, dim, height, width).
        A: (routes, dim, d_state).
        B: (batch, routes, d_state, height, width).
        C: as B.
        D: skip weight, (routes, dim).
        delta_bias: (routes, dim).
        delta_softplus: whether the step is softplus of delta + delta_bias, or the sum itself.
        routes: the order of each route, such as `BIDIRECTIONAL` or `CROSS`.
        backend: "triton", "cpu" or "reference"; None chooses by MAMBARIUM_BACKEND, else by the tensors.

    Returns:
        (batch, dim, height, width) of u's dtype and memory layout. Differentiable once, in reverse mode; through the
        reference any number of times, and forward mode is always its work.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit, or the backend does not serve it.
        RuntimeError: the backend's package is not installed.
    """
    name = choose_backend(backend, u)
    routes = tuple(routes)
    _check_arguments(u, delta, A, B, C, D, delta_bias, routes, name)
    if name == "reference":
        return grid_scan_reference(u, delta, A, B, C, D, delta_bias, delta_softplus, routes)

    inputs = (u, delta, A, B, C, D, delta_bias)
    # What a transform of torch.func does outside the innermost one isn't seen at the tensors.
    needs_gradient = under_transforms() or (
        torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    )
    out, _ = grid_forward(
        u,
        delta,
        A.float(),
        B,
        C,
        None if D is None else D.float(),
        None if delta_bias is None else delta_bias.float(),
        encode_routes(routes),
        delta_softplus,
        needs_gradient,
        name,
    )
    return cast(Tensor, out)


def _check_arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: tuple[Route, ...],
    backend: Backend,
) -> None:
    if not routes:
        raise ValueError("routes: expected at least one route; found none")
    for route in routes:
        if not isinstance(route, Route):
            raise ValueError(f"routes: expected Route objects; found {route!r}")
        if not isinstance(route.window_size, int) or route.window_size < 0:
            raise ValueError(f"routes: expected window_size as an integer of 0 or more; found {route.window_size!r}")
    count = len(routes)
    if u.dim() not in (4, 5):
        raise ValueError(
            "u: expected shape (batch, dim, height, width) or (batch, routes, dim, height, width); "
            f"found {tuple(u.shape)}"
        )
    batch, dim, height, width = u.shape[0], *u.shape[-3:]
    if u.numel() == 0:
        raise ValueError(f"u: expected at least one element of the batch, channel and position; found {tuple(u.shape)}")
    if height * width >= 2**31:
        raise ValueError(f"u: expected less than 2**31 positions; found {height} * {width}")
    if A.dim() != 3 or A.shape[:2] != (count, dim) or A.shape[2] < 1:
        raise ValueError(
            f"A: expected shape (routes, dim, d_state) with routes = {count} and dim = {dim}; found {tuple(A.shape)}"
        )
    rows = REAL if backend == "reference" else HALF_OR_FLOAT
    matrix = (batch, count, A.shape[2], height, width)
    of_grid = (batch, count, dim, height, width)
    checks = (
        ("u", u, tuple(u.shape) if u.dim() == 4 else of_grid, "(batch, routes, dim, height, width)", rows),
        ("delta", delta, of_grid, "(batch, routes, dim, height, width)", rows),
        ("A", A, tuple(A.shape), "(routes, dim, d_state)", REAL),
        ("B", B, matrix, "(batch, routes, d_state, height, width)", rows),
        ("C", C, matrix, "(batch, routes, d_state, height, width)", rows),
        ("D", D, (count, dim), "(routes, dim)", REAL),
        ("delta_bias", delta_bias, (count, dim), "(routes, dim)", REAL),
    )
    for name, tensor, shape, meaning, dtypes in checks:
        if tensor is not None:
            check_shape(name, tensor, shape, meaning)
            check_device(name, tensor, u.device)
            check_dtype(name, tensor, dtypes)

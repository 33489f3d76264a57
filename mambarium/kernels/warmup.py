"""Compilation of the CPU kernels ahead of their first use."""

import time

from mambarium.kernels.layout import float_zeros


def warm_up(backward: bool = True, grid: bool = False) -> float:
    """Compiles the CPU kernels, or loads them from the cache, so that it does not fall into a training step.

    Args:
        backward: whether the kernels of the backward are wanted too.
        grid: whether those of `grid_scan` are.

    Returns:
        The seconds it took.

    Raises:
        RuntimeError: numba is not installed.
    """
    from mambarium.kernels import BIDIRECTIONAL, causal_conv1d, grid_scan, selective_scan

    start = time.perf_counter()
    u = float_zeros(1, 1, 1).requires_grad_(backward)
    out = selective_scan(u, u, float_zeros(1, 1), u, u, backend="cpu")
    out = out + causal_conv1d(u, float_zeros(1, 2), backend="cpu")
    if grid:
        x, of_routes = u[..., None], u.expand(1, 2, 1)[..., None, None]
        scanned = grid_scan(
            x, of_routes, float_zeros(2, 1, 1), of_routes, of_routes, routes=BIDIRECTIONAL, backend="cpu"
        )
        out = out + scanned[..., 0]
    if backward:
        out.sum().backward()
    return time.perf_counter() - start

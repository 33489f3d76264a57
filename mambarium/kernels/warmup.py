"""Compilation of the CPU kernels ahead of their first use."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from mambarium.kernels.conv.causal_conv1d import causal_conv1d
from mambarium.kernels.grid.grid_scan import grid_scan
from mambarium.kernels.grid.routes import Route
from mambarium.kernels.layout import float_zeros
from mambarium.kernels.scan.selective_scan import selective_scan


def _scan_grid(u: Tensor) -> Tensor:
    x = u[None, None]
    return grid_scan(u[None], x, float_zeros(1, 1, 1), x, x, routes=[Route()], backend="cpu")


# The smallest call of each operation that has kernels, on u (1, 1, 1).
_CALLS: dict[Callable[..., Any], Callable[[Tensor], Tensor]] = {
    selective_scan: lambda u: selective_scan(u, u, float_zeros(1, 1), u, u, backend="cpu"),
    causal_conv1d: lambda u: causal_conv1d(u, float_zeros(1, 2), backend="cpu"),
    grid_scan: _scan_grid,
}


def warm_up(operations: Iterable[Callable[..., Any]], backward: bool = True) -> float:
    """Compile the CPU kernels, or load them from the cache, so that it does not fall into a training step.

    Args:
        operations: those whose kernels are wanted, among `selective_scan`, `causal_conv1d` and `grid_scan`.
        backward: whether the kernels of their backward are wanted too.

    Returns:
        The seconds it took.

    Raises:
        ValueError: there are no CPU kernels of an operation.
        RuntimeError: numba is not installed.
    """
    start = time.perf_counter()
    for operation in operations:
        if operation not in _CALLS:
            known = ", ".join(known.__name__ for known in _CALLS)
            raise ValueError(f"operations: expected some of {known}; found {operation!r}")
        out = _CALLS[operation](float_zeros(1, 1, 1).requires_grad_(backward))
        if backward:
            out.sum().backward()
    return time.perf_counter() - start

"""The cross scan: selective scans along four routes over an image, summed."""

from __future__ import annotations

import torch
from torch import Tensor

from mambarium.kernels import selective_scan

ROUTES = 4


def cross_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """The 2D selective scan of "VMamba: Visual State Space Model" (Liu et al. 2024, arXiv 2401.10166).

    Every route visits every pixel once: 0 row by row, 1 column by column, 2 as 0 from the end, 3 as 1 from the end.
    Route k is a selective scan (Mamba) with its own time step, A, B, C and D. All arguments are in the image's order;
    the routes' order is a matter of this function alone.

    Args:
        x: Input, (batch, height, width, dim).
        delta: Time step before bias and softplus, (batch, height, width, 4, dim).
        A: (4, dim, d_state), negative.
        B: (batch, height, width, 4, d_state).
        C: As B.
        D: Skip weight, (4, dim).
        delta_bias: (4, dim).

    Returns:
        The sum of the four outputs, (batch, height, width, dim), in float32 also for half-precision input.
    """
    height, width = x.shape[1:3]
    u = x.to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(3).expand(-1, -1, -1, ROUTES, -1)
    y = selective_scan(
        _along_routes(u).flatten(2).transpose(1, 2),  # (batch, 4 * dim, length), channel-last in memory
        _along_routes(delta).flatten(2).transpose(1, 2),
        A.flatten(0, 1),
        _along_routes(B).permute(0, 2, 3, 1),  # (batch, 4, d_state, length)
        _along_routes(C).permute(0, 2, 3, 1),
        D.flatten(),
        delta_bias=delta_bias.flatten(),
        delta_softplus=True,
    )
    return _merge_routes(y.transpose(1, 2).unflatten(2, (ROUTES, -1)), height, width)


def _along_routes(values: Tensor) -> Tensor:
    """Route k's values (batch, height, width, 4, dim) in the order in which it visits them, (batch, length, 4, dim)."""
    rows, columns, rows_back, columns_back = values.unbind(3)
    return torch.stack(
        [
            rows.flatten(1, 2),
            columns.transpose(1, 2).flatten(1, 2),
            rows_back.flatten(1, 2).flip(1),
            columns_back.transpose(1, 2).flatten(1, 2).flip(1),
        ],
        dim=2,
    )


def _merge_routes(values: Tensor, height: int, width: int) -> Tensor:
    """The routes' values (batch, length, 4, dim) added up pixel by pixel, (batch, height, width, dim)."""
    rows, columns, rows_back, columns_back = values.unbind(2)
    by_rows = (rows + rows_back.flip(1)).unflatten(1, (height, width))
    by_columns = (columns + columns_back.flip(1)).unflatten(1, (width, height))
    return by_rows + by_columns.transpose(1, 2)

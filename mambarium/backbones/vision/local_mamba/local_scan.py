"""What both LocalMamba networks add to a scan: windows, and a gate on each route's output."""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.layers.convolutions import Linear
from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.private_names.torch import keep_as_constant_in_graphs

UNSEARCHED = ("rows", "rows_backwards", "window_2", "window_2_backwards")
"""The routes of a block in the paper's models without search."""

_NAMES = {"h": "rows", "v": "columns", "w2": "window_2", "w7": "window_7"}


def routes_of(blocks: str) -> tuple[tuple[str, ...], ...]:
    """Names of each block's routes, from the official code's: h, v, w2 and w7, with ' after what goes backwards."""
    return tuple(
        tuple(_NAMES[route.rstrip("'")] + "_backwards" * route.endswith("'") for route in block.split())
        for block in blocks.split(",")
    )


class ChannelGate(nn.Module):
    """Weighs the channels of one route's output by what the whole image says: x sigmoid(f(mean(norm(x)))).

    The fusion of routes of "LocalMamba: Visual State Space Model with Windowed Selective Scan" (Huang et al. 2024,
    arXiv 2403.09338), as in the official `BiAttn`, whose spatial part the published models don't use.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 8)
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.global_reduce = Linear(channels, hidden)
        self.channel_select = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ..., channels) to the same."""
        mean = self.norm(x.to(self.norm.weight.dtype)).flatten(1, -2).mean(dim=1)  # (batch, channels)
        gate = self.channel_select(F.gelu(self.global_reduce(mean))).sigmoid()
        return x * gate.view(x.shape[0], *[1] * (x.ndim - 2), -1)


class Visit(NamedTuple):
    """How tokens are brought into a route's order and back.

    Attributes:
        order: (steps,) the token of each step, or the number of tokens at a step outside the grid; None if it is the
            tokens' own order.
        step_of_token: (tokens,) where each token stands in `order`.
        reverse: Whether the route is read from the end.
        padded: Whether there are steps outside the grid.
    """

    order: Tensor | None
    step_of_token: Tensor | None
    reverse: bool
    padded: bool

    def arrange(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, channels) to (batch, steps, channels), zeros outside the grid."""
        if self.order is None:
            return tokens
        return (F.pad(tokens, (0, 0, 0, 1)) if self.padded else tokens).index_select(1, self.order)

    def restore(self, steps: Tensor) -> Tensor:
        """(batch, steps, channels) to (batch, tokens, channels)."""
        return steps if self.step_of_token is None else steps.index_select(1, self.step_of_token)


def visit(route: Route, grid: tuple[int, int], class_token: bool, device: torch.device) -> Visit:
    """How the tokens of a grid, row by row, are read along a route; a class token comes in the middle of each.

    Windows that stick out of the grid are filled with zeros, which take part in the scan, as in the official code.
    """
    order, step_of_token = _orders(route, grid, class_token)
    if order is None or step_of_token is None:
        return Visit(None, None, route.backwards, False)
    padded = len(order) > len(step_of_token)
    return Visit(order.to(device), step_of_token.to(device), route.backwards, padded)


@functools.lru_cache(maxsize=256)
@keep_as_constant_in_graphs
def _orders(route: Route, grid: tuple[int, int], class_token: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the token at each step and the step of each token; None where they are the same."""
    rows, columns = grid
    size = route.window_size or 1
    padded_rows, padded_columns = -(-rows // size) * size, -(-columns // size) * size
    visited = visited_positions((route._replace(backwards=False),), padded_rows, padded_columns)[0].astype(np.int64)
    row, column = np.divmod(visited, padded_columns)
    num_tokens, middle = rows * columns + int(class_token), rows * columns // 2
    token = row * columns + column
    token += class_token & (token >= middle)
    order = np.where((row < rows) & (column < columns), token, num_tokens)
    if class_token:
        # Read backwards, the same number of steps comes before it.
        order = np.insert(order, len(order) - middle if route.backwards else middle, middle)
    if np.array_equal(order, np.arange(len(order))):
        return None, None
    return torch.from_numpy(order), torch.from_numpy(order.argsort(kind="stable")[:num_tokens])

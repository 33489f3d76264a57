"""Layers of attention within a sliding window, each with a context beyond it or without.

What the Block-Recurrent and the Block-State Transformer have in common, after the official code of the former
(`google-research/meliad`): normalised queries and keys with a learned scale for each head, T5's relative positions,
ReLU, no biases.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import State
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.initialization import draw_output_projection
from mambarium.backbones.layers.residual_stack import Block, BlockOutput, ResidualStack, StackState
from mambarium.backbones.layers.sequences import Boundaries
from mambarium.backbones.layers.windows import (
    WindowMemory,
    Windows,
    attend_in_windows,
    relative_position_buckets,
    slide,
)
from mambarium.errors import InputError

NUM_BUCKETS, MAX_DISTANCE = 32, 128


class WindowChunk(NamedTuple):
    """What the layers are told of a chunk: its windows, its document boundaries, and the memory after it."""

    windows: Windows
    boundaries: Boundaries | None
    memory: WindowMemory


class Context(nn.Module, ABC):
    """What a layer attends to beside its window.

    Attributes:
        memory_windows: How many windows of the layer's keys and values the context wants remembered.
    """

    memory_windows = 1

    @abstractmethod
    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return the context's memory before the first position."""

    @abstractmethod
    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, state: dict[str, Tensor], chunk: WindowChunk
    ) -> tuple[Tensor, State]:
        """Attend from each position of the layer's normed input x (batch, length, width).

        Keys and values (batch, memory_windows * window_size + length, heads, head_dim) are the layer's own, remembered
        ones too. Returns (batch, length, width), heads side by side, and the new memory.
        """


class WindowStack(ResidualStack):
    """Layers of attention to the last `window_size` positions.

    The state has beside the layers' own `offset` and `segment` (batch, window_size) int64, as in `WindowMemory`.
    `with_context` is the name of the argument that lists the layers with context, and the list: None for the one at
    three quarters of the depth.
    """

    @abstractmethod
    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        window_size: int,
        with_context: tuple[str, list[int] | None],
        new_context: Callable[[], Context],
        mlp_width: int | None,
        dropout: float,
    ) -> None:
        mlp_width = 4 * width if mlp_width is None else mlp_width
        sizes = {"width": width, "depth": depth, "num_heads": num_heads, "window_size": window_size}
        for name, value in {**sizes, "mlp_width": mlp_width}.items():
            check_at_least(name, value, 1)
        check_rate("dropout", dropout)
        if width % num_heads:
            raise InputError(f"num_heads must divide width, got {num_heads} and {width}")
        name, chosen = with_context
        chosen = [3 * depth // 4] if chosen is None else chosen
        if not all(0 <= layer < depth for layer in chosen):
            raise InputError(f"{name} must be from 0 to {depth - 1}, got {chosen}")
        contexts = (new_context() if layer in chosen else None for layer in range(depth))
        sizes_of_layer = (width, depth, num_heads, window_size, mlp_width, dropout)
        super().__init__(width, (WindowLayer(*sizes_of_layer, context) for context in contexts))
        self.window_size = window_size

    def describe(self, x: Tensor, state: StackState | None, boundaries: Boundaries | None) -> WindowChunk:
        """Return the windows of a chunk."""
        known = cast(dict[str, Tensor], self.initial_memory(x.shape[0], x.device) if state is None else state)
        windows, memory = slide(WindowMemory(known["offset"], known["segment"]), x.shape[1], boundaries)
        return WindowChunk(windows, boundaries, memory)

    def initial_memory(self, batch_size: int, device: torch.device) -> dict[str, State]:
        """No positions."""
        places = (batch_size, self.window_size)
        return {
            "offset": torch.full(places, -1, device=device, dtype=torch.int64),
            "segment": torch.zeros(places, device=device, dtype=torch.int64),
        }

    def memory_of(self, chunk: WindowChunk) -> dict[str, State]:
        """Where the last positions stand."""
        return {"offset": chunk.memory.offset, "segment": chunk.memory.segment}


class WindowLayer(Block):
    """Pre-norm residual layer: attention to the window and to the context, then the feed-forward network.

    Its state is key and value (batch, positions, num_heads, head_dim) of the last positions, and for a layer with
    context also what the context remembers.
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        num_heads: int,
        window_size: int,
        mlp_width: int,
        dropout: float,
        context: Context | None,
    ) -> None:
        super().__init__()
        self.num_layers, self.window_size = num_layers, window_size
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.context = context
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.position_bias = nn.Embedding(NUM_BUCKETS, num_heads)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.out_proj = nn.Linear(width if context is None else 2 * width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
        self.mlp_in = nn.Linear(width, mlp_width, bias=False)
        self.mlp_out = nn.Linear(mlp_width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Scales of 1, no preference for positions, and outputs whose sum over all layers keeps its size."""
        self.scale.fill_(1.0)
        self.position_bias.weight.zero_()
        for projection in (self.out_proj, self.mlp_out):
            draw_output_projection(projection, 2 * self.num_layers)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros; the stack's memory says that they are no positions."""
        positions = self.window_size * (1 if self.context is None else self.context.memory_windows)
        shape = (batch_size, positions, self.num_heads, self.head_dim)
        state: dict[str, State] = {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("key", "value")}
        if self.context is not None:
            state["context"] = self.context.initial_state(batch_size, device, dtype)
        return state

    def forward(self, residual: Tensor, state: State | None, chunk: WindowChunk) -> BlockOutput:
        x = self.norm(residual.to(self.norm.weight.dtype))
        before = self.initial_state(x.shape[0], x.device, x.dtype) if state is None else state
        known = cast(dict[str, Tensor], before)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        query, key = scaled_direction(query, self.scale), scaled_direction(key)
        key, value, after = with_memory(known, key, value)

        windows = chunk.windows
        buckets = relative_position_buckets(windows.distance, NUM_BUCKETS, MAX_DISTANCE)
        bias = self.position_bias(buckets).permute(2, 0, 1).to(query.dtype)  # (heads, block_length, keys)
        bias = bias.expand(*windows.sliding.shape[:2], -1, -1, -1).masked_fill(~windows.sliding, -math.inf)
        seen = slice(key.shape[1] - x.shape[1] - self.window_size, None)
        attended = attend_in_windows(query, key[:, seen], value[:, seen], bias, windows).flatten(2)
        if self.context is not None:
            remembered = cast(dict[str, dict[str, Tensor]], before)["context"]
            from_context, after["context"] = self.context(x, key, value, remembered, chunk)
            attended = torch.cat([attended, from_context], dim=-1)
        residual = residual + self.dropout(self.out_proj(attended))
        hidden = F.relu(self.mlp_in(self.mlp_norm(residual.to(self.mlp_norm.weight.dtype))))
        return BlockOutput(residual + self.dropout(self.mlp_out(hidden)), None if state is None else after, {})


def scaled_direction(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Heads (..., heads, head_dim) of length 1, or of each head's own scale (heads,)."""
    direction = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
    return (direction if scale is None else direction * scale.abs()[:, None]).to(x.dtype)


def with_memory(state: dict[str, Tensor], key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, dict[str, State]]:
    """Return a chunk's keys and values behind the remembered ones (batch, positions, ...), and what to remember."""
    keys = torch.cat([state["key"].to(key.dtype), key], dim=1)
    values = torch.cat([state["value"].to(value.dtype), value], dim=1)
    positions, dtype = state["key"].shape[1], state["key"].dtype
    return keys, values, {"key": keys[:, -positions:].to(dtype), "value": values[:, -positions:].to(dtype)}

"""Block-State Transformer: attention within windows, and a state-space model over the whole sequence as their context.

"Block-State Transformers" (Pilault et al. 2023, arXiv 2306.09539), in the single-head form (SH) with structured
filters; no official code was published. Attention, feed-forward network and T5's relative positions are those of the
Block-Recurrent Transformer on which it builds (`google-research/meliad`): normalised queries and keys with a learned
scale for each head, ReLU, no biases.
"""

from __future__ import annotations

import math
from typing import TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import SequenceBackbone, SequenceOutput, State
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.diagonal_ssm import DiagonalSSM
from mambarium.backbones.layers.documents import NO_DOCUMENT, Boundaries, document_boundaries
from mambarium.backbones.layers.sequences import check_sequences, check_state
from mambarium.backbones.layers.windows import (
    WindowMemory,
    Windows,
    attend_in_windows,
    relative_position_buckets,
    slide,
)
from mambarium.errors import InputError

NUM_BUCKETS, MAX_DISTANCE = 32, 128


class BlockStateTransformerState(TypedDict):
    """What a Block-State Transformer remembers.

    Attributes:
        layers: For each layer, key and value (batch, window_size, num_heads, head_dim) of the last positions, and for
            one with context also context_key, context_value and ssm (batch, width, d_state / 2, 2).
        offset: (batch, window_size) int64, as in `WindowMemory`.
        segment: (batch, window_size) int64, as in `WindowMemory`.
        document_id: (batch,) int64, the last document seen, or `NO_DOCUMENT`.
    """

    layers: list[dict[str, Tensor]]
    offset: Tensor
    segment: Tensor
    document_id: Tensor


class BlockStateTransformer(SequenceBackbone):
    """Block-State Transformer, from vectors to features, with its final norm.

    Every layer attends to the last `window_size` positions. A layer with context also attends to the outputs that a
    state-space model over the whole document has at the positions of the same window.

    Args:
        width: Size of the vectors.
        depth: Number of layers.
        num_heads: Number of attention heads, a divisor of the width.
        window_size: Positions that a position sees, itself included, and length of a context's window.
        context_layers: Which layers have context, counted from 0; the one at three quarters of the depth if None.
        d_state: Size of one channel's state in the context's model, an even number.
        mlp_width: Size of the feed-forward network's hidden layer; 4 * width if None.
        dropout: Share of the outputs of attention and feed-forward network set to zero in training.
    """

    constant_state = True

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        window_size: int = 64,
        context_layers: list[int] | None = None,
        d_state: int = 16,
        mlp_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        mlp_width = 4 * width if mlp_width is None else mlp_width
        sizes = {"width": width, "depth": depth, "num_heads": num_heads, "window_size": window_size}
        for name, value in {**sizes, "mlp_width": mlp_width}.items():
            check_at_least(name, value, 1)
        check_rate("dropout", dropout)
        if width % num_heads:
            raise InputError(f"num_heads must divide width, got {num_heads} and {width}")
        context_layers = [3 * depth // 4] if context_layers is None else context_layers
        if not all(0 <= layer < depth for layer in context_layers):
            raise InputError(f"context_layers must be from 0 to {depth - 1}, got {context_layers}")
        self.width = width
        self.window_size = window_size
        self.layers = nn.ModuleList(
            BlockStateLayer(width, depth, num_heads, mlp_width, d_state if i in context_layers else None, dropout)
            for i in range(depth)
        )
        self.norm_f = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        """Features of every position; see `SequenceBackbone.forward`.

        Raises:
            InputError: If the input is not (batch, length, width), or state or document ids do not fit it.
        """
        check_sequences(self, x, document_ids)
        if state is None:
            old = cast(BlockStateTransformerState, self.initial_state(x.shape[0], device=x.device))
        else:
            check_state(self, len(self.layers), state, x.shape[0])
            old = cast(BlockStateTransformerState, state)
        boundaries = None if document_ids is None else document_boundaries(document_ids, old["document_id"])
        windows, memory = slide(WindowMemory(old["offset"], old["segment"]), x.shape[1], boundaries)

        residual = x.to(torch.promote_types(x.dtype, torch.float32))
        new_layers: list[dict[str, Tensor]] = []
        for layer, layer_state in zip(self.layers, old["layers"], strict=True):
            residual, new_layer = layer(residual, layer_state, windows, boundaries)
            new_layers.append(new_layer)
        features = self.norm_f(residual.to(self.norm_f.weight.dtype))
        if state is None:
            return SequenceOutput(features, None, {})
        new = BlockStateTransformerState(
            layers=new_layers,
            offset=memory.offset,
            segment=memory.segment,
            document_id=old["document_id"] if boundaries is None else boundaries.last_document,
        )
        return SequenceOutput(features, cast(State, new), {})

    def initial_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """No positions and no document; the size does not depend on `max_length`."""
        device = self.norm_f.weight.device if device is None else torch.device(device)
        dtype = self.norm_f.weight.dtype if dtype is None else dtype
        places = (batch_size, self.window_size)
        layers = [cast(BlockStateLayer, layer) for layer in self.layers]
        state = BlockStateTransformerState(
            layers=[layer.initial_state(batch_size, self.window_size, device, dtype) for layer in layers],
            offset=torch.full(places, -1, device=device, dtype=torch.int64),
            segment=torch.zeros(places, device=device, dtype=torch.int64),
            document_id=torch.full((batch_size,), NO_DOCUMENT, device=device, dtype=torch.int64),
        )
        return cast(State, state)

    def depth_of(self, parameter_name: str) -> int:
        """1 for the first layer (0 is the task's embedding), `depth` for the last and the final norm."""
        parts = parameter_name.split(".")
        return int(parts[1]) + 1 if parts[0] == "layers" else len(self.layers)


class BlockStateLayer(nn.Module):
    """Pre-norm residual layer: attention to the window and to its context, then the feed-forward network.

    Args:
        width: Size of the vectors.
        num_layers: Depth of the whole network, by whose root the output projections are scaled at the start.
        num_heads: Number of attention heads.
        mlp_width: Size of the feed-forward network's hidden layer.
        d_state: Size of one channel's state in the context's model, None for a layer without context.
        dropout: Share of the outputs of attention and feed-forward network set to zero in training.
    """

    def __init__(
        self, width: int, num_layers: int, num_heads: int, mlp_width: int, d_state: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.num_layers, self.num_heads, self.head_dim = num_layers, num_heads, width // num_heads
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.position_bias = nn.Embedding(NUM_BUCKETS, num_heads)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.context = None if d_state is None else Context(width, num_heads, d_state)
        self.out_proj = nn.Linear(width if self.context is None else 2 * width, width, bias=False)
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
            nn.init.kaiming_uniform_(projection.weight, a=math.sqrt(5))
            projection.weight.div_(math.sqrt(2 * self.num_layers))

    def initial_state(
        self, batch_size: int, window_size: int, device: torch.device, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Zeros; the window's memory says that they are no positions."""
        names = ["key", "value"] if self.context is None else ["key", "value", "context_key", "context_value"]
        shape = (batch_size, window_size, self.num_heads, self.head_dim)
        state = {name: torch.zeros(shape, device=device, dtype=dtype) for name in names}
        if self.context is not None:
            state["ssm"] = self.context.ssm.initial_state(batch_size, device, dtype)
        return state

    def forward(
        self, residual: Tensor, state: dict[str, Tensor], windows: Windows, boundaries: Boundaries | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(batch, length, width) to the same, and the layer's new state."""
        x = self.norm(residual.to(self.norm.weight.dtype))
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        query, key = scaled_direction(query, self.scale), scaled_direction(key)
        key, value, new_state = with_memory(state, "key", "value", key, value)
        buckets = relative_position_buckets(windows.distance, NUM_BUCKETS, MAX_DISTANCE)
        bias = self.position_bias(buckets).permute(2, 0, 1).to(query.dtype)  # (heads, block_length, keys)
        bias = bias.expand(*windows.sliding.shape[:2], -1, -1, -1).masked_fill(~windows.sliding, -math.inf)
        attended = attend_in_windows(query, key, value, bias, windows).flatten(2)
        if self.context is not None:
            from_context, context_state = self.context(x, state, windows, boundaries)
            attended = torch.cat([attended, from_context], dim=-1)
            new_state = {**new_state, **context_state}
        residual = residual + self.dropout(self.out_proj(attended))
        hidden = F.relu(self.mlp_in(self.mlp_norm(residual.to(self.mlp_norm.weight.dtype))))
        return residual + self.dropout(self.mlp_out(hidden)), new_state


class Context(nn.Module):
    """Attention to what a state-space model over the whole document says at the positions of the same window.

    Args:
        width: Size of the vectors.
        num_heads: Number of attention heads.
        d_state: Size of one channel's state.
    """

    def __init__(self, width: int, num_heads: int, d_state: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.ssm = DiagonalSSM(width, d_state, "legs")
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales of 1."""
        nn.init.ones_(self.scale)

    def forward(
        self, x: Tensor, state: dict[str, Tensor], windows: Windows, boundaries: Boundaries | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the context adds to the heads (batch, length, width), and the new parts of the layer's state."""
        y, ssm_state = self.ssm(x, state["ssm"], boundaries)
        query = self.query(x).unflatten(-1, (self.num_heads, self.head_dim))
        key, value = self.key_value(y).unflatten(-1, (2, self.num_heads, self.head_dim)).unbind(2)
        query, key = scaled_direction(query, self.scale), scaled_direction(key)
        key, value, new_state = with_memory(state, "context_key", "context_value", key, value)
        attended = attend_in_windows(query, key, value, windows.aligned, windows)
        return attended.flatten(2), {**new_state, "ssm": ssm_state}


def scaled_direction(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Heads (batch, length, heads, head_dim) of length 1, or of each head's own scale (heads,)."""
    direction = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
    return (direction if scale is None else direction * scale.abs()[:, None]).to(x.dtype)


def with_memory(
    state: dict[str, Tensor], key_name: str, value_name: str, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """A chunk's keys and values behind the remembered ones (batch, window_size, ...), and what to remember of them."""
    keys = torch.cat([state[key_name].to(key.dtype), key], dim=1)
    values = torch.cat([state[value_name].to(value.dtype), value], dim=1)
    window_size, dtype = state[key_name].shape[1], state[key_name].dtype
    return keys, values, {key_name: keys[:, -window_size:].to(dtype), value_name: values[:, -window_size:].to(dtype)}

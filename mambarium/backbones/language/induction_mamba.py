"""Mamba with induction layers: attention that finds where the last few positions stood before, and what followed there.

A state of constant size forgets the words of a text, so that Mamba alone copies badly ("Repeat After Me: Transformers
are Better than State Space Models at Copying", Jelassi et al. 2024, arXiv 2402.01032). Heads made for copying mend it
in recurrent networks ("In-Context Language Learning: Architectures and Algorithms", Akyurek et al. 2024, arXiv
2401.12973, where they compare tokens). Here they compare vectors, with the two properties that let one layer do it from
the first step of training on:

- a position's key is made from the position before it, so that what matches is a context, and its value what came next
  ("KV Shifting Attention Enhances Language Modeling", Xu et al. 2024, arXiv 2411.19574);
- queries and keys are the same map of their positions ("Reformer", Kitaev et al. 2020, arXiv 2001.04451), so
  that equal contexts match before anything is learned.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import State
from mambarium.backbones.language.mamba.mamba_backbone import MambaBlock
from mambarium.backbones.layers.arguments import check_at_least, check_mamba_sizes, check_rate
from mambarium.backbones.layers.residual_stack import Block, BlockOutput
from mambarium.backbones.layers.window_stack import (
    WindowChunk,
    WindowStack,
    check_layer_numbers,
    scaled_direction,
    with_memory,
)
from mambarium.backbones.layers.windows import attend_in_windows
from mambarium.errors import InputError

INITIAL_SCALE = 16.0
"""Of the scores at the start: exp(16) outweighs some thousand unrelated positions."""


class InductionMamba(WindowStack):
    """Mamba with induction layers, from vectors to features, with its final norm.

    Args:
        width: Size of the vectors (`d_model`).
        depth: Number of Mamba blocks.
        induction_layers: After which of them an induction layer stands, counted from 0; after the middle one if None.
        num_heads: Number of heads of an induction layer, a divisor of the width.
        window_size: Positions that an induction layer looks back, the current one included.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolution, 2 to 4.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step; "auto" is ceil(width / 16).
        dropout: Share of a layer's outputs set to zero in training.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        induction_layers: list[int] | None = None,
        num_heads: int = 2,
        window_size: int = 1024,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dropout: float = 0.0,
    ) -> None:
        check_mamba_sizes(width, depth, d_state, d_conv, expand, dt_rank)
        check_rate("dropout", dropout)
        for name, value in {"num_heads": num_heads, "window_size": window_size}.items():
            check_at_least(name, value, 1)
        if width % num_heads:
            raise InputError(f"num_heads must divide width, got {num_heads} and {width}")
        induction_layers = [(depth - 1) // 2] if induction_layers is None else induction_layers
        check_layer_numbers("induction_layers", induction_layers, depth)
        blocks = (
            InductionMambaBlock(
                MambaBlock(width, depth, d_state, d_conv, expand, dt_rank, dropout),
                InductionLayer(width, depth, num_heads, window_size, dropout) if i in induction_layers else None,
            )
            for i in range(depth)
        )
        super().__init__(width, window_size, blocks)


class InductionMambaBlock(Block):
    """A Mamba block, and behind it an induction layer or none.

    Its state is the parts' own, `mamba` and, with an induction layer, `induction`.

    Args:
        mamba: The Mamba block.
        induction: The induction layer, None for none.
    """

    def __init__(self, mamba: MambaBlock, induction: InductionLayer | None) -> None:
        super().__init__()
        self.mamba = mamba
        self.induction = induction

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros; the stack's memory says that they are no positions."""
        state = {"mamba": self.mamba.initial_state(batch_size, device, dtype)}
        if self.induction is not None:
            state["induction"] = self.induction.initial_state(batch_size, device, dtype)
        return cast(State, state)

    def forward(self, residual: Tensor, state: dict[str, dict[str, Tensor]] | None, chunk: WindowChunk) -> BlockOutput:
        """See `Block.forward`."""
        known = {} if state is None else state
        residual, mamba_state, losses = self.mamba(residual, known.get("mamba"), chunk.boundaries)
        after = {"mamba": mamba_state}
        if self.induction is not None:
            residual, after["induction"] = self.induction(residual, known.get("induction"), chunk)
        return BlockOutput(residual, None if state is None else cast(State, after), losses)


class InductionLayer(nn.Module):
    """Pre-norm residual layer of attention from each position's context to equal contexts within the window.

    With c[t] the direction of a linear map of position t, for each head: position t attends to s <= t with the scores
    |scale| c[t] . c[s - 1], and reads a linear map of s. A document's first position has no context before it, its key
    is zero.

    Its state is key and value (batch, window_size, num_heads, head_dim) of the last positions, and the last one's
    context (batch, 1, num_heads, head_dim).

    Args:
        width: Size of the vectors.
        num_layers: Depth of the whole network, by whose root the output projection is scaled at the start.
        num_heads: Number of heads.
        window_size: Positions that a position sees, itself included.
        dropout: Share of outputs set to zero in training.
    """

    def __init__(self, width: int, num_layers: int, num_heads: int, window_size: int, dropout: float) -> None:
        super().__init__()
        self.num_layers, self.window_size = num_layers, window_size
        self.heads = (num_heads, width // num_heads)
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.context = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.out_proj = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sharp scores, and outputs whose sum over all layers keeps its size."""
        self.scale.fill_(INITIAL_SCALE)
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight.div_(math.sqrt(self.num_layers))

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros."""
        positions = {"key": self.window_size, "value": self.window_size, "context": 1}
        return {
            name: torch.zeros(batch_size, count, *self.heads, device=device, dtype=dtype)
            for name, count in positions.items()
        }

    def forward(
        self, residual: Tensor, state: dict[str, Tensor] | None, chunk: WindowChunk
    ) -> tuple[Tensor, State | None]:
        """Add the layer's part to (batch, length, width), and say what to remember; see `Block.forward`."""
        x = self.norm(residual.to(self.norm.weight.dtype))
        before = self.initial_state(x.shape[0], x.device, x.dtype) if state is None else state
        known = cast(dict[str, Tensor], before)
        context = scaled_direction(self.context(x).unflatten(-1, self.heads))  # (batch, length, num_heads, head_dim)
        key = torch.cat([known["context"].to(context.dtype), context[:, :-1]], dim=1)
        if chunk.boundaries is not None:
            key = key.masked_fill(chunk.boundaries.reset[..., None, None], 0.0)
        value = self.value(x).unflatten(-1, self.heads)
        key, value, after = with_memory(known, key, value)
        query = scaled_direction(context, self.scale)
        attended = attend_in_windows(query, key, value, chunk.windows.sliding, chunk.windows)
        residual = residual + self.dropout(self.out_proj(attended.flatten(2)))
        if state is None:
            return residual, None
        return residual, {**after, "context": context[:, -1:].to(known["context"].dtype)}

"""Transformer++: the Transformer in today's form, Mamba's strongest rival.

Pre-norm blocks of RMSNorm, rotary positions, SwiGLU and no biases, as Llama ("LLaMA: Open and Efficient Foundation
Language Models", Touvron et al. 2023, arXiv 2302.13971, section 2.2) and as the Mamba paper compares itself with (Gu
and Dao 2023, section 4.2 and appendix E.2.1); heads can share keys and values ("GQA", Ainslie et al. 2023,
arXiv 2305.13245).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import SequenceBackbone, SequenceOutput, State
from mambarium.backbones.language.transformer.key_value_cache import (
    Append,
    KeyValueState,
    append_positions,
    causal_mask,
    empty_state,
    plan_append,
)
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.initialization import draw_output_projection
from mambarium.backbones.layers.sequences import check_sequences, check_state, document_boundaries
from mambarium.backbones.published.family import Counted, Family
from mambarium.errors import InputError

MLP_MULTIPLE = 128


class Transformer(SequenceBackbone):
    """Transformer++, from vectors to features, with its final norm.

    Its state holds keys and values of all positions. Without gradients, a call writes into the state that it is given,
    which stays valid, but is no constant.

    Args:
        width: Size of the vectors.
        depth: Number of blocks.
        num_heads: Number of attention heads, a divisor of the width.
        num_key_value_heads: Number of heads of keys and values, a divisor of num_heads; num_heads if None.
        mlp_width: Size of the feed-forward network's hidden layer; 8/3 of the width, rounded up to a multiple of 128,
            if None.
        rope_base: Longest wavelength of the rotary positions, in positions over 2 pi.
        dropout: Share of the outputs of attention and feed-forward network set to zero in training.
    """

    constant_state = False

    def __init__(
        self,
        width: int = 128,
        depth: int = 2,
        num_heads: int = 4,
        num_key_value_heads: int | None = None,
        mlp_width: int | None = None,
        rope_base: float = 10000.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        num_key_value_heads = num_heads if num_key_value_heads is None else num_key_value_heads
        if mlp_width is None:
            mlp_width = math.ceil(8 * width / 3 / MLP_MULTIPLE) * MLP_MULTIPLE
        sizes = {"width": width, "depth": depth, "num_heads": num_heads, "num_key_value_heads": num_key_value_heads}
        for name, value in {**sizes, "mlp_width": mlp_width}.items():
            check_at_least(name, value, 1)
        check_rate("dropout", dropout)
        if width % (2 * num_heads):
            raise InputError(f"width must be a multiple of twice num_heads, got {width} and {num_heads}")
        if num_heads % num_key_value_heads:
            raise InputError(f"num_key_value_heads must divide num_heads, got {num_key_value_heads} and {num_heads}")
        if not 1 < rope_base < math.inf:
            raise InputError(f"rope_base must be above 1, got {rope_base}")
        self.width = width
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = width // num_heads
        self.rope_base = rope_base
        self.layers = nn.ModuleList(
            TransformerBlock(width, depth, num_heads, num_key_value_heads, mlp_width, dropout) for _ in range(depth)
        )
        self.norm_f = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        check_sequences(self, x, document_ids)
        length = x.shape[1]
        append, new, segment = None, None, None
        if state is not None:
            check_state(self, len(self.layers), state, x.shape[0])
            old = cast(KeyValueState, state)
            append = plan_append(old, length)
            new = append_positions(old, append, document_ids)
        if document_ids is not None:
            segment = document_boundaries(document_ids).segment if new is None else new["segment"]
        start = 0 if append is None else append.start
        causal = start == 0 and segment is None and length > 1
        mask = None if causal else causal_mask(start, start + length, segment, x.device)
        rotation = rotary_factors(start, length, self.head_dim, self.rope_base, x)

        residual = x.to(torch.promote_types(x.dtype, torch.float32))
        new_layers: list[dict[str, Tensor]] = []
        for i, layer in enumerate(self.layers):
            cache = None if new is None else new["layers"][i]
            residual, cache = layer(residual, rotation, mask, causal, cache, append)
            new_layers.append(cache)
        features = self.norm_f(residual.to(self.norm_f.weight.dtype))
        if new is None:
            return SequenceOutput(features, None, {})
        new["layers"] = new_layers
        return SequenceOutput(features, cast(State, new), {})

    def initial_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        device = self.norm_f.weight.device if device is None else torch.device(device)
        dtype = self.norm_f.weight.dtype if dtype is None else dtype
        depth, heads = len(self.layers), self.num_key_value_heads
        return cast(State, empty_state(depth, heads, self.head_dim, batch_size, max_length, device, dtype))


class TransformerBlock(nn.Module):
    """Two pre-norm residual layers: attention, then the feed-forward network."""

    def __init__(
        self, width: int, num_layers: int, num_heads: int, num_key_value_heads: int, mlp_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.attention = RotaryAttention(width, num_layers, num_heads, num_key_value_heads)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, num_layers, mlp_width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        residual: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        causal: bool,
        cache: dict[str, Tensor] | None,
        append: Append | None,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(batch, length, width) to the same, and the layer's new keys and values."""
        normed = self.attention_norm(residual.to(self.attention_norm.weight.dtype))
        attended, cache = self.attention(normed, rotation, mask, causal, cache, append)
        residual = residual + self.dropout(attended)
        mixed = self.mlp(self.mlp_norm(residual.to(self.mlp_norm.weight.dtype)))
        return residual + self.dropout(mixed), cache


class RotaryAttention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, num_layers: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.num_layers, self.num_heads, self.num_key_value_heads = num_layers, num_heads, num_key_value_heads
        self.head_dim = width // num_heads
        self.qkv = nn.Linear(width, (num_heads + 2 * num_key_value_heads) * self.head_dim, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale the output projection by the number of residual branches, two a block."""
        draw_output_projection(self.out_proj, 2 * self.num_layers)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        mask: Tensor | None,
        causal: bool,
        cache: dict[str, Tensor] | None,
        append: Append | None,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Attend from each position of a chunk x (batch, length, width) to those before it; return also the new cache.

        `causal` says that the chunk begins the sequence, and no mask is needed beyond its order.
        """
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, length, head_dim)
        split = [self.num_heads, self.num_key_value_heads, self.num_key_value_heads]
        query, key, value = heads.split(split, dim=1)
        query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None and append is not None:
            cache = {"key": append(cache["key"], key, dim=2), "value": append(cache["value"], value, dim=2)}
            key, value = cache["key"][:, :, : append.end], cache["value"][:, :, : append.end]
        key, value, shared = key.to(query.dtype), value.to(query.dtype), self.num_heads != self.num_key_value_heads
        out = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, enable_gqa=shared)
        return self.out_proj(out.transpose(1, 2).flatten(2)), cache


class SwiGLU(nn.Module):
    """Feed-forward network with a gate: down(silu(gate(x)) * up(x)).

    "GLU Variants Improve Transformer" (Shazeer 2020, arXiv 2002.05202).
    """

    def __init__(self, width: int, num_layers: int, mlp_width: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale the output projection by the number of residual branches, two a block."""
        draw_output_projection(self.down, 2 * self.num_layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def rotary_factors(start: int, length: int, head_dim: int, base: float, like: Tensor) -> Tensor:
    """Cosine and sine (2, length, head_dim / 2) of the positions' angles position * base^(-2 i / head_dim).

    "RoFormer: Enhanced Transformer with Rotary Position Embedding" (Su et al. 2021, arXiv 2104.09864, equation 15). The
    angles are computed in float64 (on the CPU, which always has it), so that distances stay exact far into a text;
    the result has the device and, if it is finer than float32, the type of `like`.
    """
    rates = base ** (-torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float64) / head_dim)
    angles = torch.arange(start, start + length, device="cpu", dtype=torch.float64)[:, None] * rates
    factors = torch.stack([angles.cos(), angles.sin()])
    return factors.to(torch.promote_types(like.dtype, torch.float32)).to(like.device)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) of heads (batch, heads, length, head_dim) by their angles."""
    cos, sin = factors.unbind()
    first, second = x.to(factors.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


# The sizes of the Mamba paper's table 12 (scaling laws), the hidden layer as the official code rounds it.
VARIANTS: dict[str, Callable[[], Transformer]] = {
    "transformer_125m": partial(Transformer, width=768, depth=12, num_heads=12),
    "transformer_350m": partial(Transformer, width=1024, depth=24, num_heads=16),
    "transformer_760m": partial(Transformer, width=1536, depth=24, num_heads=16),
    "transformer_1.3b": partial(Transformer, width=2048, depth=24, num_heads=32),
}

FAMILY = Family(
    Transformer,
    VARIANTS,
    counted={
        "transformer_125m": Counted(123_568_896, 330.34),
        "transformer_350m": Counted(359_818_240, 942.96),
        "transformer_760m": Counted(756_782_592, 1858.97),
        "transformer_1.3b": Counted(1_317_324_800, 3109.99),
    },
)

"""Mamba: a stack of selective state-space blocks.

"Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (Gu and Dao 2023, arXiv 2312.00752),
section 3.4, as in the official `state-spaces/mamba` (`mixer_seq_simple.py`, `mamba_simple.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypedDict, cast

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import SequenceBackbone, SequenceOutput, State
from mambarium.backbones.layers.arguments import check_mamba_sizes, check_rate
from mambarium.backbones.layers.documents import NO_DOCUMENT, Boundaries, document_boundaries
from mambarium.backbones.layers.selective_ssm import SelectiveSSM
from mambarium.backbones.layers.sequences import check_sequences, check_state


class MambaState(TypedDict):
    """What a Mamba remembers.

    Attributes:
        layers: For each layer, convolution (batch, d_inner, d_conv - 1) and scan (batch, d_inner, d_state).
        document_id: (batch,) int64, the last document seen, or `NO_DOCUMENT`.
    """

    layers: list[dict[str, Tensor]]
    document_id: Tensor


class Mamba(SequenceBackbone):
    """Mamba, from vectors to features, with its final norm.

    Args:
        width: Size of the vectors (`d_model`).
        depth: Number of blocks.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolution, 2 to 4.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step; "auto" is ceil(width / 16).
        dropout: Share of a block's outputs set to zero in training.
        residual_in_fp32: Keep the sum of the blocks' outputs in float32 whatever the input's type.
    """

    constant_state = True

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dropout: float = 0.0,
        residual_in_fp32: bool = True,
    ) -> None:
        super().__init__()
        check_mamba_sizes(width, depth, d_state, d_conv, expand, dt_rank)
        check_rate("dropout", dropout)
        self.width = width
        self.residual_in_fp32 = residual_in_fp32
        self.layers = nn.ModuleList(
            MambaBlock(width, depth, d_state, d_conv, expand, dt_rank, dropout) for _ in range(depth)
        )
        self.norm_f = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        """Features of every position; see `SequenceBackbone.forward`.

        Raises:
            InputError: If the input is not (batch, length, width), or state or document ids do not fit it.
        """
        check_sequences(self, x, document_ids)
        if state is not None:
            check_state(self, len(self.layers), state, x.shape[0])
        old = cast(MambaState | None, state)
        boundaries = None
        if document_ids is not None:
            boundaries = document_boundaries(document_ids, None if old is None else old["document_id"])

        residual = x.float() if self.residual_in_fp32 else x
        new_layers: list[dict[str, Tensor]] = []
        for i, layer in enumerate(self.layers):
            residual, new_layer = layer(residual, None if old is None else old["layers"][i], boundaries)
            new_layers.append(new_layer)
        features = self.norm_f(residual.to(self.norm_f.weight.dtype))

        if old is None:
            return SequenceOutput(features, None, {})
        last_document = old["document_id"] if boundaries is None else boundaries.last_document
        new = MambaState(layers=new_layers, document_id=last_document)
        return SequenceOutput(features, cast(State, new), {})

    def initial_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Zeros, and no document; the size does not depend on `max_length`."""
        device = self.norm_f.weight.device if device is None else torch.device(device)
        dtype = self.norm_f.weight.dtype if dtype is None else dtype
        scans = [module for module in self.modules() if isinstance(module, SelectiveSSM)]
        state = MambaState(
            layers=[scan.initial_state(batch_size, device, dtype) for scan in scans],
            document_id=torch.full((batch_size,), NO_DOCUMENT, device=device, dtype=torch.int64),
        )
        return cast(State, state)

    def depth_of(self, parameter_name: str) -> int:
        """1 for the first block (0 is the task's embedding), `depth` for the last and the final norm."""
        parts = parameter_name.split(".")
        return int(parts[1]) + 1 if parts[0] == "layers" else len(self.layers)


class MambaBlock(nn.Module):
    """Pre-norm residual block: residual + mixer(norm(residual)).

    Args:
        width: Size of the vectors.
        num_layers: Depth of the whole network, by whose root the output projection is scaled at the start.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolution.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step.
        dropout: Share of outputs set to zero in training.
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        d_state: int,
        d_conv: int,
        expand: int,
        dt_rank: int | Literal["auto"],
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.mixer = MambaMixer(width, num_layers, d_state, d_conv, expand, dt_rank)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, residual: Tensor, state: dict[str, Tensor] | None, boundaries: Boundaries | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(batch, length, width) to the same, and the layer's new state."""
        mixed, state = self.mixer(self.norm(residual.to(self.norm.weight.dtype)), state, boundaries)
        return residual + self.dropout(mixed), state


class MambaMixer(nn.Module):
    """The Mamba block of the paper's figure 3: project to input and gate, selective SSM, project back.

    Args: as `MambaBlock`.
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        d_state: int,
        d_conv: int,
        expand: int,
        dt_rank: int | Literal["auto"],
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        d_inner = expand * width
        self.in_proj = nn.Linear(width, 2 * d_inner, bias=False)
        self.ssm = SelectiveSSM(d_inner, d_state, d_conv, math.ceil(width / 16) if dt_rank == "auto" else dt_rank)
        self.out_proj = nn.Linear(d_inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Scale the output projection so that the sum over all layers keeps its size (GPT-2's rule)."""
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight.div_(math.sqrt(self.num_layers))

    def forward(
        self, x: Tensor, state: dict[str, Tensor] | None = None, boundaries: Boundaries | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(batch, length, width) to the same, and the new state."""
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (batch, length, d_inner) each
        y, state = self.ssm(x, z, state, boundaries)
        return self.out_proj(y), state


# The sizes of table 12 of the paper.
VARIANTS: dict[str, Callable[[], Mamba]] = {
    "mamba_130m": partial(Mamba, width=768, depth=24),
    "mamba_370m": partial(Mamba, width=1024, depth=48),
    "mamba_790m": partial(Mamba, width=1536, depth=48),
    "mamba_1.4b": partial(Mamba, width=2048, depth=48),
    "mamba_2.8b": partial(Mamba, width=2560, depth=64),
}

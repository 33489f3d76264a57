"""S4D: a stack of diagonal linear state-space models, whose parameters do not depend on the input.

"On the Parameterization and Initialization of Diagonal State Space Models" (Gu et al. 2022, arXiv 2206.11893). The
layers are those of the official `state-spaces/s4` (`models/s4/s4d.py`), in the pre-norm blocks with RMSNorm that the
other families have.
"""

from __future__ import annotations

from typing import TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import SequenceBackbone, SequenceOutput, State
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.diagonal_ssm import DiagonalSSM, Discretization, StateMatrix
from mambarium.backbones.layers.documents import NO_DOCUMENT, Boundaries, document_boundaries
from mambarium.backbones.layers.sequences import check_sequences, check_state


class S4DState(TypedDict):
    """What an S4D remembers.

    Attributes:
        layers: For each layer (batch, width, d_state / 2, 2), real and imaginary parts.
        document_id: (batch,) int64, the last document seen, or `NO_DOCUMENT`.
    """

    layers: list[Tensor]
    document_id: Tensor


class S4D(SequenceBackbone):
    """S4D, from vectors to features, with a final norm.

    Args:
        width: Size of the vectors.
        depth: Number of blocks.
        d_state: Size of one channel's state, an even number: half of it are complex numbers.
        state_matrix: How A and B start: "legs" (the diagonal of HiPPO-LegS), "lin" (-1/2 + i pi n), "inv" (its
            approximation by inverses) or "real" (-(n + 1)).
        discretization: "zoh", exact for inputs constant over a time step, or "bilinear".
        dropout: Share of the values before and after a block's last projection set to zero in training.
    """

    constant_state = True

    def __init__(
        self,
        width: int = 128,
        depth: int = 6,
        d_state: int = 64,
        state_matrix: StateMatrix = "lin",
        discretization: Discretization = "zoh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least("width", width, 1)
        check_at_least("depth", depth, 1)
        check_rate("dropout", dropout)
        self.width = width
        self.layers = nn.ModuleList(
            S4DBlock(width, DiagonalSSM(width, d_state, state_matrix, discretization), dropout) for _ in range(depth)
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
        old = cast(S4DState | None, state)
        boundaries = None
        if document_ids is not None:
            boundaries = document_boundaries(document_ids, None if old is None else old["document_id"])

        residual = x.to(torch.promote_types(x.dtype, torch.float32))
        new_layers: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            residual, new_layer = layer(residual, None if old is None else old["layers"][i], boundaries)
            new_layers.append(new_layer)
        features = self.norm_f(residual.to(self.norm_f.weight.dtype))
        if old is None:
            return SequenceOutput(features, None, {})
        document_id = old["document_id"] if boundaries is None else boundaries.last_document
        return SequenceOutput(features, cast(State, S4DState(layers=new_layers, document_id=document_id)), {})

    def initial_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Zeros, in at least float32, and no document; the size does not depend on `max_length`."""
        device = self.norm_f.weight.device if device is None else torch.device(device)
        dtype = self.norm_f.weight.dtype if dtype is None else dtype
        models = [module for module in self.modules() if isinstance(module, DiagonalSSM)]
        state = S4DState(
            layers=[model.initial_state(batch_size, device, dtype) for model in models],
            document_id=torch.full((batch_size,), NO_DOCUMENT, device=device, dtype=torch.int64),
        )
        return cast(State, state)

    def depth_of(self, parameter_name: str) -> int:
        """1 for the first block (0 is the task's embedding), `depth` for the last and the final norm."""
        parts = parameter_name.split(".")
        return int(parts[1]) + 1 if parts[0] == "layers" else len(self.layers)


class S4DBlock(nn.Module):
    """Pre-norm residual block: residual + glu(out_proj(gelu(ssm(norm(residual))))).

    Args:
        width: Size of the vectors.
        ssm: The state-space model, with a channel for each of the vectors' values.
        dropout: Share of the values before and after the projection set to zero in training.
    """

    def __init__(self, width: int, ssm: DiagonalSSM, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.ssm = ssm
        self.out_proj = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, residual: Tensor, state: Tensor | None, boundaries: Boundaries | None
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, length, width) to the same, and the layer's new state."""
        y, state = self.ssm(self.norm(residual.to(self.norm.weight.dtype)), state, boundaries)
        mixed = F.glu(self.out_proj(self.dropout(F.gelu(y))), dim=-1)
        return residual + self.dropout(mixed), state

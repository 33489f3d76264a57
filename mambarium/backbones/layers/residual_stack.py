"""Residual blocks one after the other: what the recurrent sequence backbones have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import SequenceBackbone, SequenceOutput, State
from mambarium.backbones.layers.sequences import (
    NO_DOCUMENT,
    Boundaries,
    check_sequences,
    check_state,
    document_boundaries,
)


class StackState(TypedDict):
    """What a stack remembers.

    Attributes:
        layers: For each block, what its own `initial_state` has.
        document_id: (batch,) int64, the last document seen, or `NO_DOCUMENT`.
    """

    layers: list[State]
    document_id: Tensor


class BlockOutput(NamedTuple):
    """What a block returns.

    Attributes:
        residual: (batch, length, width), with the block's own part added.
        state: The block's memory after the chunk, None if it was given none.
        auxiliary_losses: Scalar losses by name.
    """

    residual: Tensor
    state: State | None
    auxiliary_losses: dict[str, Tensor]


class Block(nn.Module, ABC):
    """A residual block of a stack."""

    @abstractmethod
    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return the block's memory before the first position, its size the same however long the sequence grows."""

    @abstractmethod
    def forward(self, residual: Tensor, state: Any, chunk: Any) -> BlockOutput:
        """Add the block's part; the chunk is as the stack's `describe` gives it, a state of None starts afresh."""


class ResidualStack(SequenceBackbone):
    """Blocks one after the other on a common sum, then a norm; states of constant size, documents apart.

    Args:
        width: Size of the vectors.
        blocks: From input to output.
        residual_in_fp32: Keep the sum of the blocks' outputs in at least float32 whatever the input's type.
    """

    constant_state = True

    @abstractmethod
    def __init__(self, width: int, blocks: Iterable[Block], residual_in_fp32: bool = True) -> None:
        super().__init__()
        self.width = width
        self.residual_in_fp32 = residual_in_fp32
        self.layers = nn.ModuleList(blocks)
        self.norm_f = nn.RMSNorm(width, eps=1e-5)

    def describe(self, x: Tensor, state: StackState | None, boundaries: Boundaries | None) -> Any:
        """Return what all blocks are told of a chunk x (batch, length, width), here its document boundaries."""
        return boundaries

    def initial_memory(self, batch_size: int, device: torch.device) -> dict[str, State]:
        """Return what the state holds before the first position beside the blocks' own: nothing, unless overridden."""
        return {}

    def memory_of(self, chunk: Any) -> dict[str, State]:
        """Return what the state holds after a chunk beside the blocks' own: nothing, unless overridden."""
        return {}

    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        check_sequences(self, x, document_ids)
        if state is not None:
            check_state(self, len(self.layers), state, x.shape[0])
        old = cast(StackState | None, state)
        boundaries = None
        if document_ids is not None:
            boundaries = document_boundaries(document_ids, None if old is None else old["document_id"])
        chunk = self.describe(x, old, boundaries)

        residual = x.to(torch.promote_types(x.dtype, torch.float32)) if self.residual_in_fp32 else x
        layers: list[State] = []
        losses: dict[str, list[Tensor]] = {}
        for i, block in enumerate(self.layers):
            residual, layer, block_losses = block(residual, None if old is None else old["layers"][i], chunk)
            layers.append(layer)
            for name, loss in block_losses.items():
                losses.setdefault(name, []).append(loss)
        features = self.norm_f(residual.to(self.norm_f.weight.dtype))
        summed = {name: torch.stack(parts).sum() for name, parts in losses.items()}
        if old is None:
            return SequenceOutput(features, None, summed)
        document_id = old["document_id"] if boundaries is None else boundaries.last_document
        return SequenceOutput(features, {"layers": layers, **self.memory_of(chunk), "document_id": document_id}, summed)

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
        blocks = [cast(Block, block) for block in self.layers]
        return {
            "layers": [block.initial_state(batch_size, device, dtype) for block in blocks],
            **self.initial_memory(batch_size, device),
            "document_id": torch.full((batch_size,), NO_DOCUMENT, device=device, dtype=torch.int64),
        }

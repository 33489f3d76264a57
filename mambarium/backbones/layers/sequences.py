"""What a sequence backbone is given: where documents begin in it, and checks that say what was expected."""

from typing import NamedTuple

import torch
from torch import Tensor

from mambarium.backbones.contract import SequenceBackbone, State
from mambarium.errors import InputError

NO_DOCUMENT = torch.iinfo(torch.int64).min
"""The document id of a sequence that has not been given any yet."""


class Boundaries(NamedTuple):
    """Document boundaries of a chunk, in the forms that the layers need.

    Attributes:
        reset: (batch, length) bool, true where a position begins a document that is not its predecessor's.
        segment: (batch, length) int32, how many boundaries the chunk has between its first position and this
            one: equal within a document, different if an id comes back later.
        last_document: (batch,) int64, the document of the last position.
    """

    reset: Tensor
    segment: Tensor
    last_document: Tensor


def document_boundaries(document_ids: Tensor, previous: Tensor | None = None) -> Boundaries:
    """Find where documents begin, from their ids (batch, length).

    `previous` (batch,) is the document before the first position, `NO_DOCUMENT` where there was none; None if the
    sequences begin here.
    """
    ids = document_ids.long()
    inner = ids[:, 1:] != ids[:, :-1]  # (batch, length - 1)
    if previous is None:
        first = torch.zeros_like(ids[:, :1], dtype=torch.bool)
    else:
        first = ((ids[:, 0] != previous) & (previous != NO_DOCUMENT)).unsqueeze(1)
    reset = torch.cat([first, inner], dim=1)
    segment = torch.cat([torch.zeros_like(first), inner], dim=1).cumsum(dim=1, dtype=torch.int32)
    return Boundaries(reset, segment, ids[:, -1])


def check_sequences(backbone: SequenceBackbone, x: Tensor, document_ids: Tensor | None) -> None:
    """Raise InputError unless the input is (batch, length, width) and the document ids fit it."""
    if x.ndim != 3 or x.shape[1] == 0 or x.shape[2] != backbone.width:
        raise InputError(
            f"{type(backbone).__name__} of width {backbone.width} takes (batch, length, {backbone.width}) with length "
            f"at least 1, got {tuple(x.shape)}"
        )
    if document_ids is None:
        return
    if document_ids.shape != x.shape[:2]:
        raise InputError(
            f"document_ids must be (batch, length) as the input, {tuple(x.shape[:2])}, got {tuple(document_ids.shape)}"
        )
    if document_ids.is_floating_point() or document_ids.is_complex():
        raise InputError(f"document_ids must be integers, got {document_ids.dtype}")


def check_state(backbone: SequenceBackbone, depth: int, state: State, batch_size: int) -> None:
    """Raise InputError unless the state is one of this backbone, for so many sequences."""
    expected = backbone.initial_state(batch_size, device="meta")
    held = _held_sequences(state)
    if held is None or not _fits(state, expected, held):
        raise InputError(
            f"the state is not one of this {type(backbone).__name__} of {depth} layers of width {backbone.width}: make "
            "it with its initial_state(batch_size)"
        )
    if held != batch_size:
        raise InputError(
            f"the state holds {held} sequences and the input {batch_size}: make it with initial_state(batch_size) or "
            "pick sequences with reorder_state"
        )


def _held_sequences(state: State) -> int | None:
    """Return the number of sequences of a state's first tensor, None if it has none."""
    if isinstance(state, Tensor):
        return state.shape[0] if state.ndim else None
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return next((_held_sequences(part) for part in parts), None)


def _fits(state: State, expected: State, batch_size: int) -> bool:
    if isinstance(expected, Tensor):
        if not isinstance(state, Tensor) or state.ndim != expected.ndim or state.shape[0] != batch_size:
            return False
        return all(wanted in (0, size) for size, wanted in zip(state.shape[1:], expected.shape[1:], strict=True))
    if isinstance(expected, dict):
        if not isinstance(state, dict) or state.keys() != expected.keys():
            return False
        return all(_fits(state[key], expected[key], batch_size) for key in expected)
    if not isinstance(state, list) or len(state) != len(expected):
        return False
    return all(_fits(part, wanted, batch_size) for part, wanted in zip(state, expected, strict=True))

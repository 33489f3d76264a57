"""Checks of what a sequence backbone is given, with one line that says what was expected."""

from __future__ import annotations

from torch import Tensor

from mambarium.backbones.contract import SequenceBackbone, State
from mambarium.errors import InputError


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
    """Raise InputError unless the state is one of this backbone, for so many sequences.

    Args:
        backbone: Whose `initial_state` shows the tree and the shapes; a size of 0 there stands for any size.
        depth: Number of layers, for the message.
        state: What was given.
        batch_size: Number of sequences of the input.
    """
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
    """Number of sequences of a state's first tensor, None if it has none."""
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

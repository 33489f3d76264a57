"""The memory of attention: keys and values of all positions read so far."""

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from mambarium.backbones.layers.sequences import NO_DOCUMENT, document_boundaries
from mambarium.errors import InputError

UNLIMITED = torch.iinfo(torch.int64).max


class KeyValueState(TypedDict):
    """What a stack of attention layers remembers.

    The tables have room for `capacity` positions, of which the first `length` are filled. Where no gradients are
    recorded, a call writes behind them in place, so that a token costs no copy of what came before. Several states can
    share tables, as when one is continued twice: `written` is shared with them, and only the state that has read as
    much as was written goes on in place; another takes a copy.

    Attributes:
        layers: For each layer, key and value (batch, num_key_value_heads, capacity, head_dim).
        segment: (batch, capacity) int32, equal within a document.
        document_id: (batch,) int64, the last document seen, or `NO_DOCUMENT`.
        length: (batch,) int64, positions read, the same in all rows.
        written: (batch,) int64, positions written into the tables by this state or one that shares them.
        max_length: (batch,) int64, the longest sequence, or `UNLIMITED`.
    """

    layers: list[dict[str, Tensor]]
    segment: Tensor
    document_id: Tensor
    length: Tensor
    written: Tensor
    max_length: Tensor


def empty_state(
    depth: int,
    num_heads: int,
    head_dim: int,
    batch_size: int,
    max_length: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> KeyValueState:
    """Return a state before the first position, with room for `max_length` positions, or growing as needed if None."""
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length must be at least 1, got {max_length}")
    capacity = max_length or 0

    def table() -> Tensor:
        return torch.zeros(batch_size, num_heads, capacity, head_dim, device=device, dtype=dtype)

    def number(value: int) -> Tensor:
        return torch.full((batch_size,), value, device=device, dtype=torch.int64)

    return KeyValueState(
        layers=[{"key": table(), "value": table()} for _ in range(depth)],
        segment=torch.zeros(batch_size, capacity, device=device, dtype=torch.int32),
        document_id=number(NO_DOCUMENT),
        length=number(0),
        written=number(0),
        max_length=number(max_length or UNLIMITED),
    )


class Append(NamedTuple):
    """How a call adds its positions to the tables of a state.

    Attributes:
        start: First position of the call.
        end: Position after its last one.
        capacity: Room of the new tables.
        in_place: Whether the new tables are the old ones.
    """

    start: int
    end: int
    capacity: int
    in_place: bool

    def __call__(self, table: Tensor, new: Tensor, dim: int) -> Tensor:
        """Return the table with `new` at positions start to end of `dim`."""
        new = new.to(table.dtype)
        if self.in_place:
            table.narrow(dim, self.start, self.end - self.start).copy_(new)
            return table
        room = list(table.shape)
        room[dim] = self.capacity - self.end
        return torch.cat([table.narrow(dim, 0, self.start), new, table.new_zeros(room)], dim=dim)


def plan_append(state: KeyValueState, length: int) -> Append:
    """How to add `length` positions to a state; InputError if its longest sequence would be exceeded."""
    start, written, max_length = (int(state[name][0]) for name in ("length", "written", "max_length"))
    end, capacity = start + length, state["segment"].shape[1]
    if end > max_length:
        raise InputError(
            f"the state was made for at most {max_length} positions and this call brings them to {end}; give "
            "initial_state a larger max_length"
        )
    first = state["layers"][0]["key"]
    usable = not first.requires_grad and (torch.is_inference_mode_enabled() or not first.is_inference())
    in_place = usable and not torch.is_grad_enabled() and end <= capacity and written == start
    if end > capacity:
        capacity = min(max(end, 2 * capacity), max_length)
    return Append(start, end, capacity, in_place)


def append_positions(state: KeyValueState, append: Append, document_ids: Tensor | None) -> KeyValueState:
    """Return the state after a call, its layers still those of before."""
    segment = state["segment"]
    document_id = state["document_id"]
    batch_size, length = segment.shape[0], append.end - append.start
    new_segment = segment.new_zeros(batch_size, length)
    if document_ids is not None:
        boundaries = document_boundaries(document_ids, document_id)
        new_segment = boundaries.reset.cumsum(dim=1, dtype=torch.int32)
        document_id = boundaries.last_document
    if append.start > 0:
        new_segment = new_segment + segment[:, append.start - 1 : append.start]
    written = state["written"]
    written = written.fill_(append.end) if append.in_place else torch.full_like(written, append.end)
    return KeyValueState(
        layers=state["layers"],
        segment=append(segment, new_segment, dim=1),
        document_id=document_id,
        length=torch.full_like(written, append.end),
        written=written,
        max_length=state["max_length"],
    )


def causal_mask(start: int, end: int, segment: Tensor | None, device: torch.device) -> Tensor | None:
    """Which keys the queries at positions start to end may see: themselves and earlier ones of the same document.

    With the segment (batch, at least end) of each position, None where all are of one document. Returns bool
    (batch, 1, end - start, end) or (end - start, end), true where a key is seen; None if all are.
    """
    if segment is None and end - start == 1:
        return None
    positions = torch.arange(end, device=device)
    mask = positions <= positions[start:, None]
    if segment is None:
        return mask
    same = segment[:, start:end, None] == segment[:, None, :end]
    return (mask & same).unsqueeze(1)

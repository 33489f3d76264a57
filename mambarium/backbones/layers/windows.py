"""Attention to a sliding window, block by block, and to what goes with the windows that a document is cut into."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mambarium.backbones.layers.sequences import Boundaries

BLOCK_LENGTH = 256
"""Most queries of a block: longer ones waste more on keys that their first queries or their last don't see."""


class WindowMemory(NamedTuple):
    """Where the last `window_size` positions stand.

    Attributes:
        offset: (batch, window_size) int64, each position's place in its document, -1 where there is none yet.
        segment: (batch, window_size) int64, equal within a document.
    """

    offset: Tensor
    segment: Tensor


class Windows(NamedTuple):
    """Which keys the queries of a chunk see, in blocks of queries.

    Block b holds queries b * block_length to (b + 1) * block_length, and sees of the keys (the memory's `window_size`
    and the chunk's, end to end) those from b * block_length on, `window_size + block_length` of them.

    Attributes:
        block_length: Queries of a block.
        num_blocks: Number of blocks; the last may be longer than what is left of the chunk.
        sliding: (batch, num_blocks, 1, block_length, window_size + block_length) bool, true for a query's own position
            and the window_size - 1 before it in its document.
        aligned: The same shape, true for those of them in the query's own window, when the document is cut into windows
            from its start.
        distance: (block_length, window_size + block_length) int64, how far before a query a key stands.
        offset: (batch, length) int64, each query's place in its document.
    """

    block_length: int
    num_blocks: int
    sliding: Tensor
    aligned: Tensor
    distance: Tensor
    offset: Tensor


def slide(memory: WindowMemory, length: int, boundaries: Boundaries | None) -> tuple[Windows, WindowMemory]:
    """Return the windows of a chunk of `length` positions, and the memory after it."""
    window_size = memory.offset.shape[1]
    device = memory.offset.device
    positions = torch.arange(length, device=device)
    begin = -(memory.offset[:, -1:] + 1).expand(-1, length)  # of each position's document, in the chunk's positions
    segment = memory.segment[:, -1:].expand(-1, length)
    if boundaries is not None:
        begin = torch.where(boundaries.reset, positions, begin).cummax(dim=1).values
        segment = segment + boundaries.reset.cumsum(dim=1)
    offset = torch.cat([memory.offset, positions - begin], dim=1)  # (batch, window_size + length)
    segment = torch.cat([memory.segment, segment], dim=1)
    after = WindowMemory(offset[:, -window_size:], segment[:, -window_size:])
    own_offset = offset[:, window_size:]

    block_length = min(window_size, length, BLOCK_LENGTH)
    num_blocks = math.ceil(length / block_length)
    padding = (0, num_blocks * block_length - length)
    offset, segment = F.pad(offset, padding), F.pad(segment, padding)
    keys = window_size + block_length
    key_offset, key_segment = (value.unfold(1, keys, block_length).unsqueeze(2) for value in (offset, segment))
    query_offset, query_segment = key_offset[..., window_size:].mT, key_segment[..., window_size:].mT
    distance = window_size + torch.arange(block_length, device=device)[:, None] - torch.arange(keys, device=device)
    near = (distance >= 0) & (distance < window_size)
    sliding = near & (key_segment == query_segment) & (key_offset >= 0)
    same_window = key_offset // window_size == query_offset // window_size
    return Windows(
        block_length, num_blocks, sliding.unsqueeze(2), (sliding & same_window).unsqueeze(2), distance, own_offset
    ), after


def attend_in_windows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, windows: Windows) -> Tensor:
    """Attention of all blocks at once, without scaling by the size of a head, (batch, length, heads, head_dim).

    Keys and values are (batch, window_size + length, heads, head_dim). The mask is `windows.sliding` or
    `windows.aligned`, or what is added to each head's scores (batch, num_blocks, heads, block_length, window_size +
    block_length).
    """
    length, block_length = query.shape[1], windows.block_length
    padding = (0, 0, 0, 0, 0, windows.num_blocks * block_length - length)
    query = F.pad(query, padding).unflatten(1, (windows.num_blocks, block_length)).transpose(2, 3)
    keys = windows.distance.shape[1]
    # (batch, num_blocks, heads, window_size + block_length, head_dim)
    key, value = (F.pad(x, padding).unfold(1, keys, block_length).mT for x in (key, value))
    query, key, value, mask = (x.flatten(0, 1) for x in (query, key, value, mask))
    out = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0).unflatten(0, (-1, windows.num_blocks))
    return out.transpose(2, 3).flatten(1, 2)[:, :length]


class Cut(NamedTuple):
    """The windows of a chunk when each document is cut into windows of one size from its start.

    Attributes:
        num_windows: Most windows that a sequence of the chunk has; window 0 is that of its first position.
        slots: Most positions of a window that are in the chunk.
        number: (batch, length) int64, the window of each position.
        place: (batch, length) int64, a slot of the window's own for each position, the windows' slots end to end.
        last: (batch, num_windows) int64, each window's last position in the chunk; 0 where there is no such window.
        complete: (batch, num_windows) bool, whether the window ends there.
        first: (batch, num_windows) bool, whether the window is its document's first.
    """

    num_windows: int
    slots: int
    number: Tensor
    place: Tensor
    last: Tensor
    complete: Tensor
    first: Tensor


def cut_into_windows(offset: Tensor, window_size: int) -> Cut:
    """Cut a chunk, from each position's place (batch, length) in its document, into windows of one size."""
    batch_size, length = offset.shape
    positions = torch.arange(length, device=offset.device).expand(batch_size, length)
    begins = offset % window_size == 0
    number = begins.cumsum(dim=1) - begins[:, :1].long()
    count, slots = int(number[:, -1].max()) + 1, min(window_size, length)
    place = number * slots + positions - torch.where(begins, positions, 0).cummax(dim=1).values
    last = offset.new_zeros(batch_size, count).scatter_reduce(1, number, positions, "amax")
    there = torch.arange(count, device=offset.device) <= number[:, -1:]
    last_offset = offset.gather(1, last)
    complete = there & (last_offset % window_size == window_size - 1)
    return Cut(count, slots, number, place, last, complete, there & (last_offset < window_size))


def attend_to_states(query: Tensor, key: Tensor, value: Tensor, cut: Cut) -> Tensor:
    """Attention of each position to all states of its window, without scaling by the size of a head.

    Queries are (batch, length, heads, head_dim), keys and values (batch, num_windows, states, heads, head_dim).
    """
    place = cut.place[..., None, None].expand_as(query)
    slots = query.new_zeros(query.shape[0], cut.num_windows * cut.slots, *query.shape[2:]).scatter(1, place, query)
    slots = slots.unflatten(1, (cut.num_windows, cut.slots)).flatten(0, 1).transpose(1, 2)
    key, value = (x.flatten(0, 1).transpose(1, 2).to(query.dtype) for x in (key, value))
    out = F.scaled_dot_product_attention(slots, key, value, scale=1.0)  # (batch * num_windows, heads, slots, head_dim)
    return out.transpose(1, 2).unflatten(0, (-1, cut.num_windows)).flatten(1, 2).gather(1, place)


def relative_position_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """T5's buckets of distances: one each for the near ones, then logarithmically wider.

    "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al. 2020, section
    2.1), for causal attention.
    """
    exact = num_buckets // 2
    distance = distance.clamp(min=0)
    share = (distance.clamp(min=exact).double() / exact).log() / math.log(max_distance / exact)
    wide = exact + (share * (num_buckets - exact)).long()
    return torch.where(distance < exact, distance, wide.clamp(max=num_buckets - 1))

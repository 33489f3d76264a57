"""Attention to a sliding window, block by block."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mambarium.backbones.layers.documents import Boundaries


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
    """

    block_length: int
    num_blocks: int
    sliding: Tensor
    aligned: Tensor
    distance: Tensor


def slide(memory: WindowMemory, length: int, boundaries: Boundaries | None) -> tuple[Windows, WindowMemory]:
    """The windows of a chunk of `length` positions, and the memory after it."""
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

    block_length = min(window_size, length)
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
        block_length, num_blocks, sliding.unsqueeze(2), (sliding & same_window).unsqueeze(2), distance
    ), after


def attend_in_windows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, windows: Windows) -> Tensor:
    """Attention of all blocks at once, without scaling by the size of a head.

    Args:
        query: (batch, length, heads, head_dim).
        key: (batch, window_size + length, heads, head_dim).
        value: As key.
        mask: `windows.sliding` or `windows.aligned`, or what is to be added to the scores of each head,
            (batch, num_blocks, heads, block_length, window_size + block_length).
        windows: As `slide` gives them.

    Returns:
        (batch, length, heads, head_dim).
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

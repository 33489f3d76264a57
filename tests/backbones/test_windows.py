"""Attention to a sliding window: blocks shorter than the window, documents, what came before."""

import pytest
import torch
from torch.nn import functional as F

from mambarium.backbones.layers.sequences import document_boundaries
from mambarium.backbones.layers.windows import BLOCK_LENGTH, WindowMemory, attend_in_windows, slide

HEADS, HEAD_DIM = 2, 3


@pytest.mark.parametrize(("window_size", "length"), [(7, 40), (BLOCK_LENGTH + 40, 2 * BLOCK_LENGTH + 7), (600, 300)])
def test_each_position_attends_to_the_last_window_size_of_its_document(window_size: int, length: int) -> None:
    torch.manual_seed(0)
    total = window_size + length  # a chunk, and before it positions of which the last are remembered
    document_ids = (torch.rand(2, total) < 4 / total).cumsum(dim=1)
    query, key, value = torch.randn(3, 2, total, HEADS, HEAD_DIM, dtype=torch.float64)
    t = torch.arange(total)
    distance = t[:, None] - t
    seen = (distance >= 0) & (distance < window_size) & (document_ids[:, :, None] == document_ids[:, None, :])
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    expected = F.scaled_dot_product_attention(*heads_first, seen.unsqueeze(1), scale=1.0).transpose(1, 2)

    nowhere = torch.full((2, window_size), -1)
    memory = WindowMemory(nowhere, torch.zeros_like(nowhere))
    key, value = (F.pad(x, (0, 0, 0, 0, window_size, 0)) for x in (key, value))
    previous = None
    for start, end in ((0, window_size), (window_size, total)):
        boundaries = document_boundaries(document_ids[:, start:end], previous)
        windows, memory = slide(memory, end - start, boundaries)
        chunk_keys = slice(start, end + window_size)
        out = attend_in_windows(query[:, start:end], key[:, chunk_keys], value[:, chunk_keys], windows.sliding, windows)
        torch.testing.assert_close(out, expected[:, start:end])
        previous = boundaries.last_document

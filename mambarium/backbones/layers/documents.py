"""Where documents begin in packed sequences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
    """Find where documents begin.

    Args:
        document_ids: (batch, length) integers.
        previous: (batch,) id of the document before the first position, `NO_DOCUMENT` where there was none;
            None if the sequences begin here.
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

"""A text as one long row of tokens, in memory or in files that are read where they lie."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class MappedArray:
    """A file of numbers of one type, mapped into memory when first read; a copy in another process maps it anew."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path = path
        self._dtype = dtype
        self._length = path.stat().st_size // dtype.itemsize
        self._map: np.ndarray | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, span: slice, /) -> np.ndarray:
        if self._map is None:
            # An empty file cannot be mapped.
            self._map = np.memmap(self._path, dtype=self._dtype, mode="r") if self._length else np.empty(0, self._dtype)
        return self._map[span]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


class TokenStream(NamedTuple):
    """A tokenised text.

    Attributes:
        tokens: The token numbers.
        widths: Bytes of the text that each token stands for, which add up to the text's length; None: one
            each.
    """

    tokens: np.ndarray | MappedArray
    widths: np.ndarray | MappedArray | None

    def num_bytes(self, start: int, stop: int) -> int:
        """Return the bytes that tokens `start` to `stop` (exclusive) stand for."""
        if self.widths is None:
            return stop - start
        return int(self.widths[start:stop].sum(dtype=np.int64))


def byte_stream(text: bytes) -> TokenStream:
    """Make a stream of a text's bytes, tokens 0 to 255, in memory."""
    return TokenStream(np.frombuffer(text, dtype=np.uint8), None)

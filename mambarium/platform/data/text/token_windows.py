"""Windows of a token stream as samples: shifted tiles to train on, exact coverage to evaluate on."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mambarium.errors import InputError
from mambarium.platform.data.text.token_stream import TokenStream
from mambarium.platform.randomness import mixed_seed
from mambarium.tasks.batches import IGNORED_TARGET, TokenBatch


class TokenWindow(NamedTuple):
    """One row of a `TokenBatch`: tokens and targets (length,) int64, bytes that the targets stand for."""

    tokens: np.ndarray
    targets: np.ndarray
    num_bytes: int


class TrainingWindows:
    """Windows that tile the stream side by side, shifted by an offset that is drawn for each pass from the seed.

    So each pass sees nearly every token once, and no two passes cut the text in the same places. The number
    of windows is that which fits whatever the offset.

    Raises:
        InputError: If the stream is shorter than one window and its last target; `name` says which text it is.
    """

    def __init__(self, stream: TokenStream, length: int, seed: int, name: str) -> None:
        num_tokens = len(stream.tokens)
        if num_tokens < length + 1:
            raise InputError(
                f"{name}: {num_tokens} tokens are fewer than one window of data.length + 1 = {length + 1}: "
                "lower data.length or give more text"
            )
        self._stream = stream
        self._length = length
        self._seed = seed
        self._count = max(1, (num_tokens - length) // length)
        self._num_offsets = min(length, num_tokens - self._count * length)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: tuple[int, int]) -> TokenWindow:
        pass_index, index = key
        offset = mixed_seed("window offset", self._seed, pass_index) % self._num_offsets
        start = offset + index * self._length
        window = self._stream.tokens[start : start + self._length + 1].astype(np.int64)
        num_bytes = self._stream.num_bytes(start + 1, start + self._length + 1)
        return TokenWindow(window[:-1], window[1:], num_bytes)


@dataclass(eq=False)
class EvaluationWindows:
    """Windows that predict each token but the first exactly once.

    The last window is as long as the others; what it lacks is filled with token 0 and ignored targets.

    Raises:
        InputError: If the stream has nothing to predict; `name` says which text it is.
    """

    stream: TokenStream
    length: int
    name: str

    def __post_init__(self) -> None:
        if (count := len(self.stream.tokens)) < 2:
            raise InputError(f"{self.name}: {count} tokens are too few to evaluate on; give at least 2")

    def __len__(self) -> int:
        return -(-(len(self.stream.tokens) - 1) // self.length)

    def __getitem__(self, key: tuple[int, int]) -> TokenWindow:
        start = key[1] * self.length
        window = self.stream.tokens[start : start + self.length + 1].astype(np.int64)  # the last one may be shorter
        count, missing = len(window) - 1, self.length + 1 - len(window)
        tokens = np.pad(window[:-1], (0, missing))
        targets = np.pad(window[1:], (0, missing), constant_values=IGNORED_TARGET)
        return TokenWindow(tokens, targets, self.stream.num_bytes(start + 1, start + 1 + count))


def collate_windows(windows: list[TokenWindow]) -> TokenBatch:
    """Stack windows of one length."""
    return TokenBatch(
        tokens=torch.from_numpy(np.stack([window.tokens for window in windows])),
        targets=torch.from_numpy(np.stack([window.targets for window in windows])),
        num_bytes=torch.tensor([window.num_bytes for window in windows]),
    )

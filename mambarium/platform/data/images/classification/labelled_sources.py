"""Labelled images by index: parts of a set, sets kept in memory, what stands in for a missing part."""

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.core.splits import hold_out

CACHE_LIMIT = 512 * 2**20
"""Bytes of decoded images up to which a split is kept in memory unless told otherwise."""


class ImageSource(Protocol):
    """Labelled images by index."""

    labels: list[int]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """Returns image `index` as a uint8 tensor (3, height, width)."""
        ...

    def stored(self, index: int) -> bytes | Path | None:
        """Returns the file of image `index`, or its content; None if it is made here."""
        ...

    def name(self, index: int) -> str:
        """Returns what an error message calls image `index`: its path or its row."""
        ...

    def key(self, index: int) -> str:
        """Returns what stays the same of image `index` wherever its set lies; `hold_out` chooses by it."""
        ...


class Subset:
    """Some images of a source.

    Args:
        source: The whole.
        indices: Which of its images, in which order.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = list(indices)
        self.labels = [source.labels[index] for index in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def stored(self, index: int) -> bytes | Path | None:
        """Returns the file of image `index`, or its content; None if it is made here."""
        return self._source.stored(self._indices[index])

    def read(self, index: int) -> Tensor:
        """Returns image `index` as a uint8 tensor (3, height, width)."""
        return self._source.read(self._indices[index])

    def name(self, index: int) -> str:
        """Returns what an error message calls image `index`."""
        return self._source.name(self._indices[index])

    def key(self, index: int) -> str:
        """Returns what stays the same of image `index` wherever its set lies."""
        return self._source.key(self._indices[index])


class Cached:
    """A source decoded once into memory; the same images, faster.

    All images lie in one tensor, so that worker processes share it instead of copying it.

    Args:
        source: What to decode.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.labels = source.labels
        images = [source.read(index) for index in range(len(source.labels))]
        self._shapes = [tuple(image.shape) for image in images]
        self._ends = list(accumulate(image.numel() for image in images))
        self._pixels = torch.cat([image.flatten() for image in images])

    def __len__(self) -> int:
        return len(self._ends)

    def stored(self, index: int) -> bytes | Path | None:
        """Returns the file of image `index`, or its content; None if it is made here."""
        return self._source.stored(index)

    def read(self, index: int) -> Tensor:
        """Returns a copy of image `index`, a uint8 tensor (3, height, width)."""
        end, shape = self._ends[index], self._shapes[index]
        return self._pixels[end - math.prod(shape) : end].view(shape).clone()

    def name(self, index: int) -> str:
        """Returns what an error message calls image `index`."""
        return self._source.name(index)

    def key(self, index: int) -> str:
        """Returns what stays the same of image `index` wherever its set lies."""
        return self._source.key(index)


def cached_if_small(source: ImageSource, cache: bool | None) -> ImageSource:
    """Keeps a source's decoded images in memory if asked to, or if they are few.

    Args:
        source: The images.
        cache: True or False decides; None caches up to `CACHE_LIMIT`, estimated from 32 images spread over
            the source.

    Returns:
        The source itself or its cached form.
    """
    count = len(source.labels)
    if cache is None:
        probes = range(0, count, max(1, count // 32))
        estimate = sum(source.read(index).numel() for index in probes) / max(1, len(probes)) * count
        cache = estimate <= CACHE_LIMIT
    return Cached(source) if cache else source


class ImageSplits(NamedTuple):
    """The three parts of a labelled set of images; validation and test may be the same part."""

    train: ImageSource
    val: ImageSource
    test: ImageSource


def divided(train: ImageSource, val: ImageSource | None, test: ImageSource | None, val_fraction: float) -> ImageSplits:
    """Finds what stands in for a part that a data set does not have.

    Args:
        train: The training images.
        val: The validation images; None: `val_fraction` of each class of `train`, or `test` if that is 0.
        test: The test images; None: the validation images.
        val_fraction: Part of each class to hold out.

    Returns:
        All three parts.

    Raises:
        InputError: If nothing is left to validate on.
    """
    if val is None and val_fraction == 0:
        if test is None:
            raise InputError("no validation images, no test images and data.val_fraction 0: set it to 0.1 or so")
        val = test
    elif val is None:
        keys = [train.key(index) for index in range(len(train.labels))]
        kept, held_out = hold_out(train.labels, keys, val_fraction)
        val = Subset(train, held_out)
        train = Subset(train, kept)
    return ImageSplits(train, val, val if test is None else test)

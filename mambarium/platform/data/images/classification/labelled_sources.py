"""Labelled images by index: stored ones, parts of a set, sets kept in memory, what stands in for a missing part."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import SampleSource
from mambarium.platform.data.core.splits import Splits, divided
from mambarium.platform.data.images.intensity import StoredImages
from mambarium.platform.data.images.stored_images import DecodedImages

CACHE_LIMIT = 512 * 2**20
"""Bytes of decoded images up to which a split is kept in memory unless told otherwise."""


class NamedImage(NamedTuple):
    """An image as it was read: uint8 (3, height, width), its class number, and what an error message calls it."""

    image: Tensor
    label: int
    name: str


class LabelledSource(SampleSource[NamedImage], StoredImages, Protocol):
    """Labelled images by index, the same in every pass."""

    labels: Sequence[int]


@dataclass(eq=False)
class LabelledImages(DecodedImages):
    """Stored images with the class number of each."""

    labels: Sequence[int]

    def read(self, key: SampleKey) -> NamedImage:
        return NamedImage(self.image(key[1]), self.labels[key[1]], self.name(key[1]))

    def chosen(self, indices: Sequence[int]) -> "LabelledImages":
        """Return some of the images, in the given order."""
        return LabelledImages(self.images.chosen(indices), self.reader, [self.labels[index] for index in indices])


class Cached:
    """A source decoded once into memory; the same images, faster.

    All images lie in one tensor, so that worker processes share it instead of copying it.
    """

    def __init__(self, source: LabelledSource) -> None:
        self._source = source
        images = [source.read((0, index)).image for index in range(len(source))]
        self._shapes = [tuple(image.shape) for image in images]
        self._ends = list(accumulate(image.numel() for image in images))
        self._pixels = torch.cat([image.flatten() for image in images])

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, key: SampleKey) -> NamedImage:
        end, shape = self._ends[key[1]], self._shapes[key[1]]
        image = self._pixels[end - math.prod(shape) : end].view(shape).clone()
        return NamedImage(image, self._source.labels[key[1]], self._source.name(key[1]))


def cached_if_small(source: LabelledSource, cache: bool | None) -> LabelledSource | Cached:
    """Keep a source's decoded images in memory if `cache` is true; None: if they take up to `CACHE_LIMIT`.

    What they take is estimated from 32 images spread over the source.
    """
    if cache is None:
        probes = range(0, len(source), max(1, len(source) // 32))
        pixels = sum(source.read((0, index)).image.numel() for index in probes)
        cache = pixels / max(1, len(probes)) * len(source) <= CACHE_LIMIT
    return Cached(source) if cache else source


def labelled_splits(
    stored: Mapping[str, LabelledImages], val_fraction: float, key: Callable[[int], str] = str
) -> Splits[LabelledImages]:
    """Find what stands in for a part that a data set does not have; arguments and errors as for `divided`."""
    parts = divided({part: len(source) for part, source in stored.items()}, val_fraction, stored["train"].labels, key)
    return Splits.of({name: stored[part].chosen(indices) for name, (part, indices) in parts.items()})

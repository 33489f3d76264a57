"""Which intensities of images of more than 8 bits are black and white: one range for a whole data set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.decoding import IntensityRange, decode_image, intensities, is_deep, opened_image

MEASURED_IMAGES = 256
"""Training images, spread evenly, that are looked at."""

OUTLIERS = 0.001
"""Part of an image's pixels that may lie above the range, and as many below: a camera has dead pixels."""


class StoredImages(Protocol):
    """Images by index that come from files, or from the content of files."""

    def __len__(self) -> int: ...

    def stored(self, index: int) -> bytes | Path | None:
        """Return the file of an image, or its content; None if it is made here."""
        ...

    def name(self, index: int) -> str:
        """Return what an error message calls an image."""
        ...


def images_to_measure(source: StoredImages) -> Iterator[tuple[bytes | Path, str]]:
    """Yield some images of a source, spread evenly, with their names."""
    count = min(MEASURED_IMAGES, len(source))
    for position in range(count):
        index = position * len(source) // count
        try:
            stored = source.stored(index)
        except SampleError:
            continue  # it is told when it is read, or passed over
        if stored is not None:
            yield stored, source.name(index)


def measured_range(images: Iterable[tuple[bytes | Path, str]]) -> IntensityRange | None:
    """Find the range of the images of more than 8 bits: from 0 to the highest number of as few bits as hold them.

    So the same scene has the same brightness in 8, 12 and 16 bits. Where some lie below 0, or all so far above it that
    this would waste more than a bit, the range begins at the lowest one instead. A thousandth of each image's pixels
    may lie outside at either end. None: all images have 8 bits or fewer. Pixels of floating point have no number of
    bits and raise SampleError.
    """
    found: list[tuple[int, int]] = []
    for stored, name in images:
        try:
            with opened_image(stored, name) as image:
                numbers = intensities(image, stored) if is_deep(image) else None
        except SampleError:
            continue  # it is told when it is read, or passed over
        if numbers is None:
            continue
        if numbers.dtype.kind == "f":
            raise SampleError(
                f"{name}: pixels of floating point; set data.intensity_range to what is black and what is white"
            )
        found.append(
            (
                int(np.quantile(numbers, OUTLIERS, method="lower")),
                int(np.quantile(numbers, 1 - OUTLIERS, method="higher")),
            )
        )
    if not found:
        return None
    low, high = min(lows for lows, _ in found), max(highs for _, highs in found)
    bits, bits_from_zero = (max(8, distance.bit_length()) for distance in (high - low, high))
    if low >= 0 and bits_from_zero <= bits + 1:
        return 0.0, float(2**bits_from_zero - 1)
    return float(low), float(low + 2**bits - 1)


@dataclass
class ImageReader:
    """Reads the images of one data set."""

    intensity_range: IntensityRange | None
    """What is black and what is white in images of more than 8 bits; None: not known, or not yet."""

    def read(self, stored: bytes | Path, name: str) -> Tensor:
        """Decode an image; see `decode_image`."""
        return decode_image(stored, name, self.intensity_range)

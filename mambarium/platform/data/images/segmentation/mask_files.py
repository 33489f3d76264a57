"""From stored masks to the class of each pixel, and images with such masks."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.decoding import (
    SIDEWAYS,
    layout_name,
    opened_image,
    orientation,
    sideways_hint,
    turned,
)
from mambarium.platform.data.images.segmentation.segmentation_samples import SegmentationSample, segmentation_sample
from mambarium.platform.data.images.stored_images import DecodedImages, ImageFiles, ImageRows
from mambarium.tasks.batches import IGNORED_CLASS

UNKNOWN = -1

NUMBERS = 2**16
"""How many different numbers a mask can hold."""

GREY_STEPS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the numbers of grey images of 2 and 4 bits by, by its name of their layout."""


class MaskDecoder:
    """Reads masks and turns the numbers in them into classes.

    Args:
        classes: The class of each number.
        ignored: Numbers of pixels that don't count.

    Raises:
        InputError: If there are more classes than a mask can tell apart, an ignored number is that of a class, or a
            number is none that a mask can hold.
    """

    def __init__(self, classes: Mapping[int, int], ignored: Set[int]) -> None:
        self.classes = dict(classes)
        self.ignored = frozenset(ignored)
        self._num_classes = len(set(classes.values()))
        if not 1 <= self._num_classes <= IGNORED_CLASS:
            raise InputError(f"{self._num_classes} classes; give names of 1 to {IGNORED_CLASS} (data.class_names)")
        for number in sorted(classes):
            if not 0 <= number < NUMBERS:
                raise InputError(f"data.mask_values has {number}; give 0 to {NUMBERS - 1}, what masks can hold")
        for number in sorted(ignored):
            if not 0 <= number < NUMBERS:
                raise InputError(f"data.ignored_value is {number}; give 0 to {NUMBERS - 1}, what masks can hold")
            if number in classes:
                raise InputError(
                    f"data.ignored_value is {number}, which is also the number of class {classes[number]}; give another"
                )
        self._table = np.full(NUMBERS, UNKNOWN, dtype=np.int16)
        self._table[list(ignored)] = IGNORED_CLASS
        self._table[list(classes)] = list(classes.values())

    def decode(self, stored: bytes | Path, image: Tensor, name: str) -> Tensor:
        """Decode the mask of an image (3, height, width): uint8 (height, width), `IGNORED_CLASS` where no class counts.

        Palette images give their index, not their colour; grey ones of up to 16 bits and black-and-white ones their
        number; colour ones only if the three channels agree.

        Raises:
            SampleError: If it can't be read, has another size than the image, or holds a number that is no class.
        """
        classes, way_up = self._stored_classes(stored, name)
        shown = classes.shape[::-1] if way_up in SIDEWAYS else classes.shape
        if shown != tuple(image.shape[1:]):
            raise SampleError(
                f"{name}: a mask of {shown[1]} x {shown[0]} pixels for an image of {image.shape[2]} x "
                f"{image.shape[1]}{sideways_hint(shown, image.shape[1:])}; mend or remove it"
            )
        return turned(torch.from_numpy(classes), way_up)

    def count(self, stored: bytes | Path, name: str) -> np.ndarray:
        """Count the pixels of each class number in a mask: (`IGNORED_CLASS` + 1,); raises as `decode` does."""
        classes, _ = self._stored_classes(stored, name)
        return np.bincount(classes.ravel(), minlength=IGNORED_CLASS + 1)

    def _stored_classes(self, stored: bytes | Path, name: str) -> tuple[np.ndarray, int]:
        """Return class numbers, uint8 (height, width), as they are stored, and how the mask says to turn them."""
        numbers, way_up = _stored_numbers(stored, name)
        if numbers.dtype.itemsize <= 2:
            classes = self._table[numbers]
        else:
            in_table = (numbers >= 0) & (numbers < len(self._table))
            classes = np.where(in_table, self._table[numbers * in_table], UNKNOWN)
        if (classes == UNKNOWN).any():
            number = numbers[classes == UNKNOWN].flat[0]
            raise SampleError(
                f"{name}: holds the number {number}, which is none of the {self._num_classes} classes and not ignored; "
                "mend it, or say in data.mask_values what it means"
            )
        return classes.astype(np.uint8), way_up


@dataclass(eq=False)
class ImagesWithMasks(DecodedImages):
    """A source of images with masks, in which the decoder says what numbers mean."""

    masks: ImageFiles | ImageRows
    image_ids: Sequence[int]
    decoder: MaskDecoder

    def read(self, key: SampleKey) -> SegmentationSample:
        image = self.image(key[1])
        mask = self.decoder.decode(self.masks.stored(key[1]), image, self.masks.name(key[1]))
        return segmentation_sample(image, mask, image_id=self.image_ids[key[1]])


def _stored_numbers(stored: bytes | Path, name: str) -> tuple[np.ndarray, int]:
    """Return the numbers (height, width) as they are stored, and how the mask's own EXIF data says to turn them."""
    if isinstance(stored, Path) and not stored.exists():
        raise SampleError(f"{name}: no such mask; add it or remove its image")
    with opened_image(stored, name) as image:
        step = GREY_STEPS.get(layout_name(image), 1)
        numbers = np.asarray(image)
        mode = image.mode
        way_up = orientation(image)
    if mode == "F":
        raise SampleError(f"{name}: a mask of floating-point numbers; store whole ones")
    if numbers.ndim == 3:
        if mode != "RGB" or (numbers != numbers[:, :, :1]).any():
            raise SampleError(f"{name}: a mask in colours (mode {mode}); store class numbers, grey or with a palette")
        numbers = numbers[:, :, 0]
    return (numbers.astype(np.uint8) if numbers.dtype == bool else numbers) // step, way_up

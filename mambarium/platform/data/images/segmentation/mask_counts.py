"""How many pixels of stored masks are of each class, so that what a set does not show is known before training."""

from typing import NamedTuple

import numpy as np

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import BrokenPolicy, SampleError
from mambarium.platform.data.images.segmentation.mask_files import ImagesWithMasks, MaskDecoder
from mambarium.tasks.batches import IGNORED_CLASS

MOST_MASKS = 2000
"""Masks that are read at most: large sets are not read whole before each run."""

STRIDE = 32
"""Every so manieth of them is read first, then those between: neighbours often show the same classes."""


class MaskCounts(NamedTuple):
    """Pixels of each class, pixels that don't count, and how many of the masks that there are were read for it."""

    classes: list[int]
    ignored: int
    read: int
    masks: int

    @property
    def looked_at(self) -> str:
        """The masks that were read, in words."""
        if self.read == self.masks:
            return f"the {self.masks:,} training masks"
        return f"{self.read:,} of {self.masks:,} training masks, evenly spread"


def count_masks(source: ImagesWithMasks, num_classes: int, broken: BrokenPolicy) -> MaskCounts:
    """Count pixels in evenly spread masks until every class has occurred, in `MOST_MASKS` at most.

    A mask that can't be read is told when it is trained on, so it is passed over here if `broken` is "skip"; else it
    raises SampleError.
    """
    total = np.zeros(IGNORED_CLASS + 1, dtype=np.int64)
    spread = np.linspace(0, len(source), min(len(source), MOST_MASKS), endpoint=False, dtype=np.int64).tolist()
    order = [index for start in range(STRIDE) for index in spread[start::STRIDE]]
    read = 0
    for index in order:
        try:
            total += source.decoder.count(source.masks.stored(index), source.masks.name(index))
        except SampleError:
            if broken == "raise":
                raise
        read += 1
        if total[:num_classes].all():
            break
    return MaskCounts(total[:num_classes].tolist(), int(total[IGNORED_CLASS]), read, len(source))


def check_two_values(counts: MaskCounts, class_names: list[str], decoder: MaskDecoder, where: str) -> None:
    """Refuse, with the mapping to give, two classes whose masks hold one of them and the ignored value alone."""
    present = [index for index, pixels in enumerate(counts.classes) if pixels]
    if len(class_names) != 2 or len(present) != 1 or not counts.ignored or len(decoder.ignored) != 1:
        return
    if counts.read < counts.masks:
        return
    (ignored,) = decoder.ignored
    (number,) = (number for number, index in decoder.classes.items() if index == present[0])
    name, other = class_names[present[0]], class_names[1 - present[0]]
    raise InputError(
        f"{where}: the training masks hold {number} ({name}) and {ignored} (ignored) alone, no pixel is {other}; give "
        f"data.mask_values {{{number}: {name}, {ignored}: {other}}} in place of class_names"
    )

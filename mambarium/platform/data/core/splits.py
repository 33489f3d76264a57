"""Holding out a part of a labelled set, the same part in every run."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

from mambarium.errors import InputError


def hold_out(labels: Sequence[int], names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Holds out a fraction of each class, chosen by a hash of the names, whatever the seed or the order.

    Args:
        labels: The class of each sample.
        names: The name of each sample.
        fraction: Which part of each class to hold out, above 0 and below 1; rounded, but never a whole class
            and at least one sample of a class of two or more.

    Returns:
        Indices to keep and indices to hold out, both ascending.

    Raises:
        InputError: If the fraction is out of range or nothing is left to hold out.
    """
    if not 0 < fraction < 1:
        raise InputError(f"data.val_fraction is {fraction}: give a number above 0 and below 1")
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    held_out: set[int] = set()
    for indices in by_class.values():
        indices.sort(key=lambda index: blake2b(names[index].encode(errors="surrogateescape")).digest())
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held_out.update(indices[:count])
    if not held_out:
        raise InputError("no class has two samples, so none can be held out: give validation data of its own")
    return [index for index in range(len(labels)) if index not in held_out], sorted(held_out)

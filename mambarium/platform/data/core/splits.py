"""The three parts of a data set, and what stands in for one that it does not have, the same in every run."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from mambarium.errors import InputError

Source = TypeVar("Source")


class Splits(NamedTuple, Generic[Source]):
    """What is trained on, validated on and tested on; validation and test may be the same."""

    train: Source
    val: Source
    test: Source

    @classmethod
    def of(cls, parts: Mapping[str, Source]) -> "Splits[Source]":
        """Take "train", "val" and, if there is one, "test"; else validation and test are the same."""
        return cls(parts["train"], parts["val"], parts.get("test", parts["val"]))


class SamplesOfPart(NamedTuple):
    """The samples that make a part, by the stored part that they lie in and their indices there."""

    part: str
    indices: list[int]


def divided(
    sizes: Mapping[str, int],
    val_fraction: float,
    labels: Sequence[int] | None = None,
    key: Callable[[int], str] = str,
) -> dict[str, SamplesOfPart]:
    """Find samples to validate on where a data set has none of its own: those of "train", "val" and maybe "test".

    Args:
        sizes: How many samples each stored part has, "train" among them.
        val_fraction: Which part of the training samples to hold out where there is no "val"; 0: none, those of "test"
            are validated on.
        labels: The class of each training sample, of each of which so much is held out; None: they have none.
        key: Returns what tells a training sample from others in every run, by its index.

    Raises:
        InputError: If there is nothing to validate on.
    """
    found = {part: SamplesOfPart(part, list(range(size))) for part, size in sizes.items()}
    if "val" in found:
        return found
    if val_fraction == 0:
        if "test" not in found:
            raise InputError("no validation samples, no test samples and data.val_fraction is 0; set it to 0.1 or so")
        return {"train": found["train"], "val": found["test"]}
    keys = [key(index) for index in range(sizes["train"])]
    kept, held_out = hold_out([0] * len(keys) if labels is None else labels, keys, val_fraction)
    return {**found, "train": SamplesOfPart("train", kept), "val": SamplesOfPart("train", held_out)}


def hold_out(labels: Sequence[int], names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Hold out a fraction of each class, chosen by a hash of the samples' names, whatever the seed or the order.

    The number is rounded, but never a whole class and at least one sample of a class of two or more.

    Returns:
        Indices to keep and indices to hold out, both ascending.

    Raises:
        InputError: If the fraction is out of range or nothing is left to hold out.
    """
    require_fraction(fraction)
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    held_out: set[int] = set()
    for indices in by_class.values():
        indices.sort(key=lambda index: blake2b(names[index].encode(errors="surrogateescape")).digest())
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held_out.update(indices[:count])
    if not held_out:
        raise InputError("no class has two samples, so none can be held out; give validation data of its own")
    return [index for index in range(len(labels)) if index not in held_out], sorted(held_out)


def ranks_in_class(labels: np.ndarray) -> np.ndarray:
    """Count how many samples of its class come before each sample, whose classes are given (samples,)."""
    ranks = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        ranks[labels == label] = np.arange((labels == label).sum())
    return ranks


def require_fraction(fraction: float) -> None:
    """Raise InputError unless a part can be held out."""
    if not 0 < fraction < 1:
        raise InputError(f"data.val_fraction is {fraction}; give a number above 0 and below 1")

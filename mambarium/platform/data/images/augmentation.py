"""Samples of dense tasks by index: a source, a chain of transforms, some of which combine several samples."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.randomness import sample_randomness

Sample = TypeVar("Sample")
SourceSample = TypeVar("SourceSample", covariant=True)


class SampleSource(Protocol[SourceSample]):
    """Annotated images by index."""

    def __len__(self) -> int: ...

    def read(self, key: SampleKey) -> SourceSample:
        """Returns the sample of a pass and an index; only generated images differ from pass to pass."""
        ...


class CombiningTransform(Transform):
    """A transform that makes one sample out of several."""

    @abstractmethod
    def combine(self, sample: Any, draw: Callable[[], Any]) -> Any:
        """Combines samples.

        Args:
            sample: The sample that the others are added to.
            draw: Returns another sample of the same data, drawn at random, as the transforms before this one leave it.

        Returns:
            The combined sample.
        """

    def forward(self, *inputs: Any) -> Any:
        """Refuses to work on a sample alone.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{type(self).__name__} combines several samples: list it in data.train_transforms itself, not inside "
            "another transform, and not for image classification"
        )


class AugmentedSamples(Generic[Sample]):
    """A source and a chain of transforms; sample (pass, index) is a pure function of (seed, pass, index).

    Args:
        source: The annotated images.
        transforms: Applied in order.
        seed: Seed of all random choices.
        finish: Applied after the transforms.
    """

    def __init__(
        self,
        source: SampleSource[Sample],
        transforms: Sequence[Transform],
        seed: int,
        finish: Callable[[Sample], Sample] | None = None,
    ) -> None:
        self._source = source
        self._transforms = list(transforms)
        self._seed = seed
        self._finish = finish

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: SampleKey) -> Sample:
        with sample_randomness(self._seed, *key):
            sample = self._augmented(key, len(self._transforms))
        return sample if self._finish is None else self._finish(sample)

    def _augmented(self, key: SampleKey, num_transforms: int) -> Sample:
        """Returns a sample as the first so many transforms leave it."""
        sample = self._source.read(key)
        for position, transform in enumerate(self._transforms[:num_transforms]):
            if isinstance(transform, CombiningTransform):

                def draw(position: int = position) -> Sample:
                    other = int(torch.randint(len(self._source), ()))
                    return self._augmented((key[0], other), position)

                sample = transform.combine(sample, draw)
            else:
                sample = transform(sample)
        return sample

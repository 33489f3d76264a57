"""Images as samples: augmented, or transformed for prediction, and normalised."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import Sample, SampleError, SampleSource
from mambarium.platform.data.images.intensity import ImageReader
from mambarium.platform.randomness import sample_randomness


class CombiningTransform(Transform):
    """A transform that makes one sample out of several."""

    @abstractmethod
    def combine(self, sample: Any, draw: Callable[[], Any]) -> Any:
        """Combine a sample with others.

        Args:
            sample: The sample that the others are added to.
            draw: Returns another sample of the same data, drawn at random, as the transforms before this one leave it.
        """

    def forward(self, *inputs: Any) -> Any:
        """Refuse to work on a sample alone, by an InputError."""
        raise InputError(
            f"{type(self).__name__} combines several samples; list it in data.train_transforms itself, not inside "
            "another transform, and not for image classification"
        )


@dataclass(eq=False)
class AugmentedSamples(Generic[Sample]):
    """A source and a chain of transforms; sample (pass, index) is a pure function of (seed, pass, index)."""

    source: SampleSource[Sample]
    transforms: Sequence[Callable[[Sample], Sample]]
    seed: int
    finish: Callable[[Sample], Any] | None = None
    """Applied after the transforms, without random choices."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> Any:
        with sample_randomness(self.seed, *key):
            sample = self._augmented(key, len(self.transforms))
        return sample if self.finish is None else self.finish(sample)

    def _augmented(self, key: SampleKey, num_transforms: int) -> Sample:
        """Return a sample as the first so many transforms leave it."""
        sample = self.source.read(key)
        for position, transform in enumerate(self.transforms[:num_transforms]):
            if isinstance(transform, CombiningTransform):

                def draw(position: int = position) -> Sample:
                    other = int(torch.randint(len(self.source), ()))
                    return self._augmented((key[0], other), position)

                sample = transform.combine(sample, draw)
            else:
                sample = transform(sample)
        return sample


def transformed(image: Tensor, transform: Callable[[Tensor], Tensor], name: str) -> Tensor:
    """Apply a transform to an image (3, height, width); raises SampleError with its name if it can't be applied."""
    height, width = image.shape[-2:]
    try:
        return transform(image)
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SampleError(
            f"{name}: {type(transform).__name__} can't be applied to this image of {width} x {height} pixels "
            f"({reason}); resize images before it, or take the transform or the image out"
        ) from error


class UnlabelledImage(NamedTuple):
    """An image to predict on, (3, height, width) as the transforms leave it; its size before them, index and file."""

    image: Tensor
    original_size: tuple[int, int]
    number: int
    path: str


@dataclass(eq=False)
class UnlabelledImages(Dataset[UnlabelledImage]):
    """Image files in a fixed order, transformed as those of evaluation are."""

    files: Sequence[Path]
    transforms: Sequence[Transform]
    reader: ImageReader

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> UnlabelledImage:
        name = str(self.files[index])
        image: Tensor = tv_tensors.Image(self.reader.read(self.files[index], name))
        height, width = image.shape[-2:]
        for transform in self.transforms:
            image = transformed(image, transform, name)
        return UnlabelledImage(image.as_subclass(Tensor), (height, width), index, name)


@dataclass(frozen=True)
class Normalization:
    """Brings images to floating point and subtracts mean, divides by standard deviation, on a scale of 0 to 1.

    Mean and standard deviation are those of red, green and blue.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images (..., 3, height, width), uint8 or floating point in 0 to 1, to float32."""
        scale = 1.0 if images.is_floating_point() else 255.0
        mean = torch.tensor(self.mean, dtype=torch.float32).mul_(scale).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32).mul_(scale).view(3, 1, 1)
        # A float stack is ours to change. The layout of transformed images must not decide how a model rounds.
        return images.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)

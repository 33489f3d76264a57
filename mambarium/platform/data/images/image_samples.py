"""Images as samples: how they are augmented, how they become a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.sample_error import SampleError
from mambarium.platform.data.images.augmentation import SampleSource
from mambarium.platform.data.images.classification.labelled_sources import ImageSource
from mambarium.platform.data.images.intensity import ImageReader
from mambarium.platform.randomness import sample_randomness
from mambarium.tasks.batches import ImageBatch


class LabelledImage(NamedTuple):
    """One sample: image (3, height, width) as the transforms leave it, and its class number."""

    image: Tensor
    label: int


class NamedImage(NamedTuple):
    """An image as it was read: uint8 (3, height, width), its class number, and what an error message calls it."""

    image: Tensor
    label: int
    name: str


class LabelledImages:
    """The images of a source as samples.

    Args:
        source: The images.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.labels)

    def read(self, key: SampleKey) -> NamedImage:
        """Returns an image, the same in every pass."""
        index = key[1]
        return NamedImage(self._source.read(index), self._source.labels[index], self._source.name(index))


class AugmentedImages:
    """Images with a chain of transforms; sample (pass, index) is a pure function of (seed, pass, index).

    Args:
        source: The images.
        transforms: Applied in order to the uint8 tensor (3, height, width).
        image_size: Height and width the transforms have to leave.
        seed: Seed of all random choices.
    """

    def __init__(
        self, source: SampleSource[NamedImage], transforms: Sequence[Transform], image_size: int, seed: int
    ) -> None:
        self._source = source
        self._transforms = list(transforms)
        self._image_size = image_size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: SampleKey) -> LabelledImage:
        image, label, name = self._source.read(key)
        if self._transforms:
            with sample_randomness(self._seed, *key):
                image = _transformed(image, self._transforms, name)
        _require_size(image, self._image_size, name)
        return LabelledImage(image, label)


def _transformed(image: Tensor, transforms: Sequence[Transform], name: str) -> Tensor:
    height, width = image.shape[-2:]
    for transform in transforms:
        try:
            image = transform(image)
        except InputError:
            raise
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise SampleError(
                f"{name}: {type(transform).__name__} can't be applied to this image of {width} x {height} pixels "
                f"({reason}): resize images before it, or leave the transform or the image away"
            ) from error
    return image


def _require_size(image: Tensor, image_size: int, name: str) -> None:
    if image.shape != (3, image_size, image_size):
        raise SampleError(
            f"{name}: the transforms leave {tuple(image.shape)} but data.image_size asks for "
            f"(3, {image_size}, {image_size}): end them with one that fixes the size, such as CenterCrop, or "
            "change data.image_size"
        )


class PredictionBatch(TypedDict):
    """Images to predict on.

    Attributes:
        image: (batch, 3, height, width), normalised floating point.
        path: The image files.
    """

    image: Tensor
    path: list[str]


class UnlabelledImages:
    """Image files in a fixed order, for prediction.

    Args:
        files: The files.
        transforms: Applied in order to the uint8 tensor (3, height, width).
        image_size: Height and width the transforms have to leave.
        reader: Decodes the images.
    """

    def __init__(
        self, files: Sequence[Path], transforms: Sequence[Transform], image_size: int, reader: ImageReader
    ) -> None:
        self._files = list(files)
        self._transforms = list(transforms)
        self._image_size = image_size
        self._reader = reader

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        name = str(self._files[index])
        image = _transformed(self._reader.read(self._files[index], name), self._transforms, name)
        _require_size(image, self._image_size, name)
        return image, name


@dataclass(frozen=True)
class Normalization:
    """Brings images to floating point and subtracts mean, divides by standard deviation, per channel.

    Attributes:
        mean: Of red, green and blue, on a scale of 0 to 1.
        std: The same.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises a batch.

        Args:
            images: (batch, 3, height, width), uint8 or floating point in 0 to 1.

        Returns:
            float32 (batch, 3, height, width).
        """
        scale = 1.0 if images.is_floating_point() else 255.0
        mean = torch.tensor(self.mean).mul_(scale).view(3, 1, 1)
        std = torch.tensor(self.std).mul_(scale).view(3, 1, 1)
        return images.float().sub_(mean).div_(std)  # uint8 is copied by float(), a float stack is ours


@dataclass(frozen=True)
class CollateImages:
    """Makes an `ImageBatch`; normalises the whole batch at once.

    Attributes:
        normalization: Applied to the stacked images.
    """

    normalization: Normalization

    def __call__(self, samples: list[LabelledImage]) -> ImageBatch:
        """Stacks samples."""
        return ImageBatch(
            image=self.normalization(torch.stack([sample.image for sample in samples])),
            label=torch.tensor([sample.label for sample in samples]),
        )


@dataclass(frozen=True)
class CollateForPrediction:
    """Makes a `PredictionBatch`.

    Attributes:
        normalization: Applied to the stacked images.
    """

    normalization: Normalization

    def __call__(self, samples: list[tuple[Tensor, str]]) -> PredictionBatch:
        """Stacks samples."""
        return PredictionBatch(
            image=self.normalization(torch.stack([image for image, _ in samples])),
            path=[path for _, path in samples],
        )

"""Image files without annotations, for the prediction of dense tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import Transform

from mambarium.platform.data.images.dense.padded_images import pad_images
from mambarium.platform.data.images.image_samples import Normalization
from mambarium.platform.data.images.intensity import ImageReader
from mambarium.tasks.batches import PaddedImages


class PaddedPredictionBatch(PaddedImages):
    """Images to predict on.

    Attributes:
        path: The image files.
    """

    path: list[str]


class UnannotatedImages:
    """Image files in a fixed order, transformed as those of evaluation are.

    Args:
        files: The files.
        transforms: Applied in order to the uint8 image (3, height, width).
        reader: Decodes the images.
    """

    def __init__(self, files: Sequence[Path], transforms: Sequence[Transform], reader: ImageReader) -> None:
        self._files = list(files)
        self._transforms = list(transforms)
        self._reader = reader

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[int, int], int, str]:
        """Returns image, original height and width, number and path."""
        name = str(self._files[index])
        image = tv_tensors.Image(self._reader.read(self._files[index], name))
        height, width = image.shape[-2:]
        for transform in self._transforms:
            image = transform(image)
        return image.as_subclass(torch.Tensor), (height, width), index, name


@dataclass(frozen=True)
class CollateForPadding:
    """Makes a `PaddedPredictionBatch`.

    Attributes:
        normalization: Applied to each image.
        size_multiple: What height and width of a batch are padded to a multiple of.
    """

    normalization: Normalization
    size_multiple: int

    def __call__(self, samples: list[tuple[Tensor, tuple[int, int], int, str]]) -> PaddedPredictionBatch:
        """Pads and stacks samples."""
        images, sizes, numbers, paths = zip(*samples, strict=True)
        padded = pad_images(images, sizes, numbers, self.normalization, self.size_multiple)
        return PaddedPredictionBatch(**padded, path=list(paths))

"""Images of different sizes in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mambarium.platform.data.images.image_samples import Normalization, UnlabelledImage
from mambarium.tasks.batches import PaddedImages


def pad(tensor: Tensor, size: tuple[int, int], value: float) -> Tensor:
    """Pad a tensor (..., height, width) below and on the right to (..., size[0], size[1]) with a value."""
    padded = tensor.new_full((*tensor.shape[:-2], *size), value)
    padded[..., : tensor.shape[-2], : tensor.shape[-1]] = tensor
    return padded


@dataclass(frozen=True)
class CollatePadded:
    """Normalises images and pads them, after that, with zeros to a common size; what dense tasks' batches begin with.

    Attributes:
        normalization: Applied to each image.
        size_multiple: What height and width of a batch are padded to a multiple of.
    """

    normalization: Normalization
    size_multiple: int

    def padded(
        self, images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]], image_ids: Sequence[int]
    ) -> PaddedImages:
        """Pad and stack images (3, height, width), given their original heights and widths and numbers."""
        largest = [max(image.shape[side] for image in images) for side in (-2, -1)]
        height, width = (-(-side // self.size_multiple) * self.size_multiple for side in largest)
        return PaddedImages(
            image=torch.stack([pad(self.normalization(image), (height, width), 0.0) for image in images]),
            valid_size=torch.tensor([image.shape[-2:] for image in images]),
            original_size=torch.tensor([list(original) for original in original_sizes]),
            image_id=torch.tensor(list(image_ids)),
        )

    def padded_samples(self, samples: Sequence[Any]) -> tuple[PaddedImages, tuple[int, int]]:
        """Pad and stack the images of samples that have an `image`, an `original_size` and an `image_id`.

        Returns:
            The images, and their padded height and width.
        """
        images = self.padded(
            [sample["image"].as_subclass(Tensor) for sample in samples],
            [sample["original_size"] for sample in samples],
            [sample["image_id"] for sample in samples],
        )
        return images, (images["image"].shape[2], images["image"].shape[3])


class PaddedPredictionBatch(PaddedImages):
    """Images to predict on.

    Attributes:
        path: The image files.
    """

    path: list[str]


class CollateForPadding(CollatePadded):
    """Makes a `PaddedPredictionBatch`."""

    def __call__(self, samples: list[UnlabelledImage]) -> PaddedPredictionBatch:
        images, sizes, numbers, paths = zip(*samples, strict=True)
        return PaddedPredictionBatch(**self.padded(images, sizes, numbers), path=list(paths))

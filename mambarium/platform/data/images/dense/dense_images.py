"""What data modules of detection and of segmentation share: images of any size, annotated and augmented together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import Sample
from mambarium.platform.data.images.image_data import ImageData, ImageOptions
from mambarium.platform.data.images.image_samples import Normalization, UnlabelledImage
from mambarium.tasks.batches import PaddedImages


def pad(tensor: Tensor, size: tuple[int, int], value: float) -> Tensor:
    """Pad a tensor (..., height, width) below and on the right to (..., size[0], size[1]) with a value."""
    padded = tensor.new_full((*tensor.shape[:-2], *size), value)
    padded[..., : tensor.shape[-2], : tensor.shape[-1]] = tensor
    return padded


@dataclass(frozen=True)
class CollatePadded:
    """Normalises images and pads them, after that, with zeros: both sides to a common multiple of `size_multiple`."""

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

        The padded height and width are returned beside them.
        """
        images = self.padded(
            [sample["image"].as_subclass(Tensor) for sample in samples],
            [sample["original_size"] for sample in samples],
            [sample["image_id"] for sample in samples],
        )
        return images, (images["image"].shape[2], images["image"].shape[3])


class PaddedPredictionBatch(PaddedImages):
    """Images to predict on, with their files."""

    path: list[str]


class CollateForPadding(CollatePadded):
    """Makes a `PaddedPredictionBatch`."""

    def __call__(self, samples: list[UnlabelledImage]) -> PaddedPredictionBatch:
        images, sizes, numbers, paths = zip(*samples, strict=True)
        return PaddedPredictionBatch(**self.padded(images, sizes, numbers), path=list(paths))


class DenseOptions(ImageOptions, total=False):
    """Options of `DenseImages` that all its data modules of stored images have."""

    size_multiple: int


class ScaledOptions(DenseOptions, total=False):
    """`DenseOptions`, and the sides that images are scaled to."""

    short_side: int
    long_side: int


class DenseImages(ImageData, Generic[Sample]):
    """Annotated images, augmented together with their annotations by torchvision's v2 transforms.

    Images keep the sizes that the transforms leave; a batch pads them. Normalisation comes before the padding, so
    padding is zero.

    A subclass defines `read_splits`, `augmented` and `collate`, and `read_class_names` if the classes are not given.

    Args:
        size_multiple: What height and width of a batch are padded to a multiple of.
        options: Those of `ImageData`.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, size_multiple: int = 32, batch_size: int = 16, **options: Any) -> None:
        super().__init__(batch_size=batch_size, **options)
        if size_multiple < 1:
            raise InputError(f"data.size_multiple is {size_multiple}; give 1 or more")
        self.size_multiple = size_multiple

    @property
    def prediction_collate(self) -> CollateForPadding:
        return CollateForPadding(self.normalization, self.size_multiple)

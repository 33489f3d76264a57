"""Images with a class per pixel as samples: what a source gives, how they are augmented, how they become a batch."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors

from mambarium.platform.data.images.dense.padded_images import pad, pad_images
from mambarium.platform.data.images.image_samples import Normalization
from mambarium.tasks.batches import IGNORED_CLASS, SegmentationBatch


class SegmentationSample(TypedDict):
    """An image with the class of each pixel, as transforms of torchvision's v2 take and return it.

    Attributes:
        image: uint8 (3, height, width).
        mask: uint8 (height, width) class numbers, `IGNORED_CLASS` where none counts.
        original_mask: The mask before all transforms; evaluation keeps it, training drops it.
        original_size: Height and width of the image as it was read.
        image_id: The image's number in its data set.
    """

    image: tv_tensors.Image
    mask: tv_tensors.Mask
    original_mask: NotRequired[Tensor]
    original_size: tuple[int, int]
    image_id: int


def segmentation_sample(image: Tensor, mask: Tensor, image_id: int) -> SegmentationSample:
    """Puts a sample together.

    Args:
        image: uint8 (3, height, width).
        mask: uint8 (height, width) class numbers.
        image_id: The image's number in its data set.

    Returns:
        The sample, its tensors marked for torchvision's transforms.
    """
    height, width = image.shape[-2:]
    return SegmentationSample(
        image=tv_tensors.Image(image),
        mask=tv_tensors.Mask(mask),
        original_mask=mask,
        original_size=(height, width),
        image_id=image_id,
    )


def without_original_mask(sample: SegmentationSample) -> SegmentationSample:
    """Drops what only evaluation needs.

    Args:
        sample: An image with its mask.

    Returns:
        A new sample.
    """
    kept = sample.copy()
    kept.pop("original_mask", None)
    return kept


@dataclass(frozen=True)
class CollateSegmentation:
    """Makes a `SegmentationBatch`; normalises each image and pads it afterwards.

    Attributes:
        normalization: Applied to each image.
        size_multiple: What height and width of a batch are padded to a multiple of.
    """

    normalization: Normalization
    size_multiple: int

    def __call__(self, samples: list[SegmentationSample]) -> SegmentationBatch:
        """Pads and stacks samples."""
        images = pad_images(
            [sample["image"].as_subclass(Tensor) for sample in samples],
            [sample["original_size"] for sample in samples],
            [sample["image_id"] for sample in samples],
            self.normalization,
            self.size_multiple,
        )
        size = (images["image"].shape[2], images["image"].shape[3])
        masks = [pad(sample["mask"].as_subclass(Tensor), size, IGNORED_CLASS) for sample in samples]
        return SegmentationBatch(
            **images,
            mask=torch.stack(masks).long(),
            original_mask=[sample["original_mask"].long() for sample in samples if "original_mask" in sample],
        )

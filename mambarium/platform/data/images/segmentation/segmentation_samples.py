"""Images with a class per pixel as samples: what a source gives, how they are augmented, how they become a batch."""

from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors

from mambarium.platform.data.images.dense.dense_images import CollatePadded, pad
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
    """Put an image, uint8 (3, height, width), and its mask of class numbers, uint8 (height, width), together."""
    height, width = image.shape[-2:]
    return SegmentationSample(
        image=tv_tensors.Image(image),
        mask=tv_tensors.Mask(mask),
        original_mask=mask,
        original_size=(height, width),
        image_id=image_id,
    )


def without_original_mask(sample: SegmentationSample) -> SegmentationSample:
    """Return a sample without what only evaluation needs."""
    kept = sample.copy()
    kept.pop("original_mask", None)
    return kept


class CollateSegmentation(CollatePadded):
    """Makes a `SegmentationBatch`."""

    def __call__(self, samples: list[SegmentationSample]) -> SegmentationBatch:
        images, size = self.padded_samples(samples)
        masks = [pad(sample["mask"].as_subclass(Tensor), size, IGNORED_CLASS) for sample in samples]
        return SegmentationBatch(
            **images,
            mask=torch.stack(masks).long(),
            original_mask=[sample["original_mask"].long() for sample in samples if "original_mask" in sample],
        )

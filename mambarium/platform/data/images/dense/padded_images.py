"""Images of different sizes in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mambarium.platform.data.images.image_samples import Normalization
from mambarium.tasks.batches import PaddedImages


def padded_size(images: Sequence[Tensor], multiple: int) -> tuple[int, int]:
    """The least size that is a multiple of a number and holds all images.

    Args:
        images: Tensors (..., height, width).
        multiple: What height and width have to be divisible by.

    Returns:
        Height and width.
    """
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad(tensor: Tensor, size: tuple[int, int], value: float) -> Tensor:
    """Pads a tensor (..., height, width) below and on the right to a size.

    Args:
        tensor: What to pad.
        size: Height and width, at least the tensor's own.
        value: What to fill with.

    Returns:
        A new tensor (..., size[0], size[1]).
    """
    padded = tensor.new_full((*tensor.shape[:-2], *size), value)
    padded[..., : tensor.shape[-2], : tensor.shape[-1]] = tensor
    return padded


def pad_images(
    images: Sequence[Tensor],
    original_sizes: Sequence[tuple[int, int]],
    image_ids: Sequence[int],
    normalization: Normalization,
    multiple: int,
) -> PaddedImages:
    """Normalises images and pads them, after that, with zeros to a common size.

    Args:
        images: uint8 or floating-point tensors (3, height, width).
        original_sizes: Height and width of each as it was read.
        image_ids: The number of each in its data set.
        normalization: Applied to each image.
        multiple: What height and width of the batch have to be divisible by.

    Returns:
        The images of a batch.
    """
    size = padded_size(images, multiple)
    return PaddedImages(
        image=torch.stack([pad(normalization(image), size, 0.0) for image in images]),
        valid_size=torch.tensor([image.shape[-2:] for image in images]),
        original_size=torch.tensor([list(original) for original in original_sizes]),
        image_id=torch.tensor(list(image_ids)),
    )

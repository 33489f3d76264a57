"""Mixup and cutmix: batch transforms that mix images and their labels."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from mambarium.errors import InputError


class ImageMixing:
    """Mixup (Zhang et al. 2018), cutmix (Yun et al. 2019), or one of the two at random for each batch.

    The numbers are the alphas of their Beta distributions, 0 for none. All randomness comes from torch's global
    generator, which a run seeds anew for every batch.

    Raises:
        InputError: If an alpha is negative.
    """

    def __init__(self, num_classes: int, mixup: float, cutmix: float) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not alpha >= 0:
                raise InputError(f"{name} is {alpha}; give 0 for none, or a number above 0")
        self.transforms: list[v2.Transform] = []
        with torch.device("cpu"):  # they draw numbers, which a model built on the meta device couldn't
            if mixup > 0:
                self.transforms.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
            if cutmix > 0:
                self.transforms.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (batch, 3, height, width) and labels (batch,); mixed labels are shares (batch, num_classes)."""
        if not self.transforms:
            return images, labels
        choice = int(torch.randint(len(self.transforms), ()))
        mixed_images, shares = self.transforms[choice](images, labels)
        return mixed_images, shares

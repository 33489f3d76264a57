"""ConvNeXt: a plain convolutional network, torchvision's behind the contract.

"A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_rate
from mambarium.backbones.layers.linear import Linear
from mambarium.backbones.layers.torchvision_backbone import TorchvisionPyramid, torchvision_models
from mambarium.errors import InputError


class ConvNeXt(TorchvisionPyramid):
    """ConvNeXt, from images to one map per stage.

    Args:
        depths: Number of blocks of each stage, at least two in all.
        widths: Channels of each stage.
        patch_size: Height and width of the stem's patches: 4 as published, 1 or 2 for small images.
        layer_scale: Factor on every block's branch at the start.
        drop_path: Probability of dropping the last block's branch for a sample in training; linearly less before.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 2),
        widths: tuple[int, ...] = (32, 64, 128),
        patch_size: int = 4,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths) or min(depths, default=0) < 1 or sum(depths) < 2:
            raise InputError(
                f"ConvNeXt needs as many depths as widths and at least two blocks, got {depths} and {widths}"
            )
        check_at_least("every one of widths", min(widths), 1)
        check_at_least("patch_size", patch_size, 1)
        check_rate("drop_path", drop_path)
        self.depths, self.widths = tuple(depths), tuple(widths)
        self.patch_size, self.layer_scale, self.drop_path = patch_size, layer_scale, drop_path
        self.feature_info = tuple(FeatureInfo(width, patch_size * 2**i) for i, width in enumerate(widths))
        self.size_divisibility = self.feature_info[-1].stride
        self.network = self.new_network()

    def new_network(self) -> nn.Module:
        """torchvision's network, which has the official initialisation."""
        library: Any = torchvision_models("convnext", "ConvNeXt")
        following = (*self.widths[1:], None)
        network = library.ConvNeXt(
            [library.CNBlockConfig(*sizes) for sizes in zip(self.widths, following, self.depths, strict=True)],
            stochastic_depth_prob=self.drop_path,
            layer_scale=self.layer_scale,
            num_classes=1,
        )
        network.classifier = nn.Identity()
        if self.patch_size != 4:  # the only size that torchvision has
            patches = nn.Conv2d(3, self.widths[0], self.patch_size, stride=self.patch_size)
            nn.init.trunc_normal_(patches.weight, std=0.02)
            nn.init.zeros_(patches.bias)  # type: ignore[arg-type]  # there is one
            network.features[0][0] = patches
        return network

    def forward(self, images: Tensor) -> VisionFeatures:
        """One map per stage of images (batch, 3, height, width).

        Raises:
            InputError: If the images do not have 3 channels, or their height or width is not a multiple of the
                last map's stride.
        """
        check_images(images)
        height, width = images.shape[-2:]
        if min(height, width) < 1 or height % self.size_divisibility or width % self.size_divisibility:
            raise InputError(
                f"this ConvNeXt takes height and width that are multiples of {self.size_divisibility}, "
                f"got {height}x{width}"
            )
        network: Any = self.network
        x, maps = images.contiguous(memory_format=torch.channels_last), []
        for part, layers in enumerate(network.features):
            x = layers(x)  # (batch, channels, height / stride, width / stride)
            if part % 2 == 1:
                maps.append(x)
        return VisionFeatures(maps, None, {})

    def classifier(self, num_classes: int) -> ConvNeXtClassifier:
        """Mean of the last map, norm, and a linear head."""
        return ConvNeXtClassifier(self.widths[-1], num_classes)


class ConvNeXtClassifier(nn.Module):
    """Mean of the last map, norm, and a linear head.

    Args:
        width: Channels of the last map.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = Linear(width, num_classes)

    def forward(self, features: VisionFeatures) -> Tensor:
        """ConvNeXt's features to logits (batch, num_classes)."""
        return self.head(self.norm(features.maps[-1].mean(dim=(2, 3))))


_TINY_SMALL = (96, 192, 384, 768)

# Section 3 of the paper, with the drop path of its Table 5 for ImageNet-1K.
VARIANTS: dict[str, Callable[[], ConvNeXt]] = {
    "convnext_tiny": partial(ConvNeXt, (3, 3, 9, 3), _TINY_SMALL, drop_path=0.1),
    "convnext_small": partial(ConvNeXt, (3, 3, 27, 3), _TINY_SMALL, drop_path=0.4),
    "convnext_base": partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024), drop_path=0.5),
}

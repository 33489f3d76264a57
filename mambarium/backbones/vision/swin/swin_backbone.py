"""Swin Transformer: attention in shifted windows, torchvision's network behind the contract.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021, arXiv 2103.14030).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_rate
from mambarium.backbones.layers.linear import Linear
from mambarium.backbones.layers.output_norms import OutputNorms
from mambarium.backbones.layers.torchvision_backbone import TorchvisionPyramid, torchvision_models
from mambarium.errors import InputError


class Swin(TorchvisionPyramid):
    """Swin Transformer, from images to one map per stage, each stage twice as wide as the one before.

    The maps are the stages' outputs before any norm; `output_norms` makes the norms that dense tasks put on them. Maps
    that are no multiple of the window are padded with zeros inside, odd ones before patches are merged.

    Args:
        depths: Number of blocks of each stage, at least two in all.
        width: Channels of the first stage.
        num_heads: Attention heads in each stage, divisors of the stages' widths.
        window_size: Height and width of the windows.
        patch_size: Height and width of a patch: 4 as published, 1 or 2 for small images.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 2),
        width: int = 32,
        num_heads: tuple[int, ...] = (1, 2, 4),
        window_size: int = 4,
        patch_size: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads) or min(depths, default=0) < 1 or sum(depths) < 2:
            raise InputError(
                f"Swin needs as many depths as num_heads and at least two blocks, got {depths} and {num_heads}"
            )
        sizes = {"width": width, "window_size": window_size, "patch_size": patch_size}
        for name, value in {**sizes, "every one of num_heads": min(num_heads)}.items():
            check_at_least(name, value, 1)
        for stage, heads in enumerate(num_heads):
            if width * 2**stage % heads:
                raise InputError(f"Swin's num_heads {heads} must divide the {width * 2**stage} channels of its stage")
        check_rate("drop_path", drop_path)
        self.depths, self.num_heads = tuple(depths), tuple(num_heads)
        self.width, self.window_size, self.drop_path = width, window_size, drop_path
        self.size_divisibility = patch_size
        self.feature_info = tuple(FeatureInfo(width * 2**i, patch_size * 2**i) for i in range(len(depths)))
        self.network = self.new_network()

    def new_network(self) -> nn.Module:
        """torchvision's network, which has the official initialisation."""
        library: Any = torchvision_models("swin_transformer", "Swin")
        network = library.SwinTransformer(
            patch_size=[self.size_divisibility] * 2,
            embed_dim=self.width,
            depths=list(self.depths),
            num_heads=list(self.num_heads),
            window_size=[self.window_size] * 2,
            stochastic_depth_prob=self.drop_path,
            num_classes=1,
        )
        network.norm, network.head = nn.Identity(), nn.Identity()
        return network

    def forward(self, images: Tensor) -> VisionFeatures:
        """One map per stage of images (batch, 3, height, width).

        Raises:
            InputError: If the images do not have 3 channels, or their height or width is not a multiple of the
                patch size.
        """
        check_images(images)
        height, width = images.shape[-2:]
        if min(height, width) < 1 or height % self.size_divisibility or width % self.size_divisibility:
            raise InputError(
                f"Swin with patch_size {self.size_divisibility} takes height and width that are multiples of it, "
                f"got {height}x{width}"
            )
        network: Any = self.network
        x, maps = images, []
        for part, layers in enumerate(network.features):
            x = layers(x)  # (batch, height / stride, width / stride, channels)
            if part % 2 == 1:
                maps.append(x.permute(0, 3, 1, 2))
        return VisionFeatures(maps, None, {})

    def resized(self, parameter_name: str, stored: Tensor) -> Tensor | None:
        """Position biases of another window size, bicubically interpolated as in the official code.

        The positions to which they belong are those of this window size, whatever is stored.
        """
        if parameter_name.endswith(".relative_position_index"):
            return self.get_buffer(parameter_name)
        if not parameter_name.endswith(".relative_position_bias_table") or stored.ndim != 2:
            return None
        side, wanted = math.isqrt(stored.shape[0]), 2 * self.window_size - 1
        if side < 1 or side**2 != stored.shape[0]:
            return None
        biases = stored.t().unflatten(1, (side, side))  # (heads, rows, columns)
        biases = F.interpolate(biases[None], size=(wanted, wanted), mode="bicubic", align_corners=False)[0]
        return biases.flatten(1).t()

    def classifier(self, num_classes: int) -> SwinClassifier:
        """Norm and mean of the last map, and a linear head."""
        return SwinClassifier(self.feature_info[-1].channels, num_classes)

    def output_norms(self) -> OutputNorms:
        """New norms for the maps, as the official detection and segmentation backbones have them."""
        return OutputNorms(self.feature_info)


class SwinClassifier(nn.Module):
    """Norm of the last map, its mean, and a linear head.

    Args:
        width: Channels of the last map.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head = Linear(width, num_classes)

    def forward(self, features: VisionFeatures) -> Tensor:
        """Swin's features to logits (batch, num_classes)."""
        return self.head(self.norm(features.maps[-1].permute(0, 2, 3, 1)).mean(dim=(1, 2)))


# Section 3.3 of the paper, with the drop path of the official configurations for ImageNet-1K.
VARIANTS: dict[str, Callable[[], Swin]] = {
    "swin_tiny": partial(Swin, (2, 2, 6, 2), 96, (3, 6, 12, 24), 7, drop_path=0.2),
    "swin_small": partial(Swin, (2, 2, 18, 2), 96, (3, 6, 12, 24), 7, drop_path=0.3),
    "swin_base": partial(Swin, (2, 2, 18, 2), 128, (4, 8, 16, 32), 7, drop_path=0.5),
}

"""ConvNeXt: a plain convolutional network, torchvision's behind the contract.

"A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545).
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_multiples, check_rate
from mambarium.backbones.layers.heads import PooledClassifier
from mambarium.backbones.layers.torchvision_backbone import TorchvisionPyramid, torchvision_models
from mambarium.backbones.published.configuration import Expected, fixed
from mambarium.backbones.published.family import (
    IMAGENET,
    Counted,
    Family,
    Format,
    Published,
    PublishedWeights,
    Weights,
    having,
    renaming,
)
from mambarium.backbones.published.timm import timm_config, training_options
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

    no_weight_decay = ("layer_scale",)

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
        """Torchvision's network, which has the official initialisation."""
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
        check_images(images)
        check_multiples("this ConvNeXt", images.shape[-2], images.shape[-1], self.size_divisibility)
        network: Any = self.network
        x, maps = images.contiguous(memory_format=torch.channels_last), []
        for part, layers in enumerate(network.features):
            x = layers(x)  # (batch, channels, height / stride, width / stride)
            if part % 2 == 1:
                maps.append(x)
        return VisionFeatures(maps, None, {})

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Mean of the last map, norm, and a linear head."""
        return PooledClassifier(self.widths[-1], num_classes, nn.LayerNorm(self.widths[-1], eps=1e-6))


_TINY_SMALL = (96, 192, 384, 768)

# Section 3 of the paper, with the drop path of its Table 5 for ImageNet-1K.
VARIANTS: dict[str, Callable[[], ConvNeXt]] = {
    "convnext_tiny": partial(ConvNeXt, (3, 3, 9, 3), _TINY_SMALL, drop_path=0.1),
    "convnext_small": partial(ConvNeXt, (3, 3, 27, 3), _TINY_SMALL, drop_path=0.4),
    "convnext_base": partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024), drop_path=0.5),
}


def _published(size: str, top1: float, gmacs: float) -> Published:
    address = f"https://dl.fbaipublicfiles.com/convnext/convnext_{size}_1k_224_ema.pth"
    return Published(top1, IMAGENET, 224, gmacs, "Liu et al. 2022", PublishedWeights(address, "MIT"))


# Names in the checkpoints of `facebookresearch/ConvNeXt` (the file's entry `model`), of timm and of torchvision.
_LAYERS = {"block.0": "dwconv", "block.2": "norm", "block.3": "pwconv1", "block.5": "pwconv2", "layer_scale": "gamma"}
_FROM_TIMM = {
    r"^stem\.": "downsample_layers.0.",
    r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
    r"^stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.": r"stages.\1.\2.dwconv.",
    r"^stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc(\d)\.": r"stages.\1.\2.pwconv\3.",
    r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
    r"^head\.norm\.": "norm.",
    r"^head\.fc\.": "head.",
}
_HEAD = {"classifier.0.": "norm.", "classifier.2.": "head."}


def from_official(weights: Mapping[str, Tensor]) -> Weights:
    """Return an official state dict, the factors on the branches shaped as ours for maps with channels first."""
    return {key: value.view(-1, 1, 1) if key.endswith(".gamma") else value for key, value in weights.items()}


def exported(weights: Mapping[str, Tensor]) -> Weights:
    """Our weights with the official shapes: one factor per channel."""
    return {key: value.flatten() if key.endswith(".gamma") else value for key, value in weights.items()}


def official_key(key: str) -> str:
    """Return the official key of one of torchvision's, or of a parameter of ours."""
    key = key.removeprefix("network.")
    found = re.match(r"features\.(\d+)\.(.*)", key)
    if not found:
        for theirs, official in _HEAD.items():
            key = key.replace(theirs, official)
        return key
    part, rest = int(found[1]), found[2]
    if part % 2 == 0:
        return f"downsample_layers.{part // 2}.{rest}"
    block, inside = rest.split(".", 1)
    for theirs, official in _LAYERS.items():
        inside = inside.replace(theirs, official)
    return f"stages.{part // 2}.{block}.{inside}"


def timm_arguments(backbone: ConvNeXt) -> dict[str, Expected]:
    """Return what the arguments of timm's `ConvNeXt` are for a backbone."""
    return {
        "depths": Expected((backbone.depths,), "depths"),
        "dims": Expected((backbone.widths,), "widths"),
        "patch_size": Expected((backbone.patch_size,), "patch_size"),
        **fixed(
            output_stride=backbone.feature_info[-1].stride,
            kernel_sizes=7,
            stem_type="patch",
            head_norm_first=False,
            head_hidden_size=None,
            conv_mlp=False,
            conv_bias=True,
            use_grn=False,
        ),
        "act_layer": Expected(("gelu", None)),
        "norm_layer": Expected(("layernorm", None)),
        "norm_eps": Expected((1e-6, None)),
    }


_MODELS = r"convnext_(tiny|small|base|large|xlarge)"
FAMILY = Family(
    ConvNeXt,
    VARIANTS,
    {
        "convnext_tiny": _published("tiny", 82.1, 4.5),
        "convnext_small": _published("small", 83.1, 8.7),
        "convnext_base": _published("base", 83.8, 15.4),
    },
    (
        Format(
            "ConvNeXt (facebookresearch/ConvNeXt)",
            having("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
            from_official,
            (training_options(_MODELS),),
        ),
        Format(
            "ConvNeXt (timm)",
            having("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
            lambda weights: from_official(renaming(_FROM_TIMM)(weights)),
            (timm_config(_MODELS, "avg", timm_arguments), training_options(_MODELS, timm_arguments)),
        ),
        Format(
            "ConvNeXt (torchvision)",
            having("features.0.0.weight", "features.1.0.layer_scale"),
            lambda weights: {official_key(key): value for key, value in weights.items()},
        ),
    ),
    official_key,
    exported=exported,
    counted={
        "convnext_tiny": Counted(28_589_128, 4.46),
        "convnext_small": Counted(50_223_688, 8.68),
        "convnext_base": Counted(88_591_464, 15.35),
    },
)

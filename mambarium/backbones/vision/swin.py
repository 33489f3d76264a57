"""Swin Transformer: attention in shifted windows, torchvision's network behind the contract.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021, arXiv 2103.14030).
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_multiples, check_rate
from mambarium.backbones.layers.heads import ChannelNorm, PooledClassifier
from mambarium.backbones.layers.torchvision_backbone import TorchvisionPyramid, torchvision_models
from mambarium.backbones.published.configuration import Expected, fixed
from mambarium.backbones.published.family import IMAGENET, Counted, Family, Format, Published, PublishedWeights, Weights
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.backbones.published.yacs import yacs_config
from mambarium.errors import InputError


class Swin(TorchvisionPyramid):
    """Swin Transformer, from images to one map per stage, each stage twice as wide as the one before.

    The maps are the stages' outputs before any norm. Maps that are no multiple of the window are padded with zeros
    inside, odd ones before patches are merged.

    Args:
        depths: Number of blocks of each stage, at least two in all.
        width: Channels of the first stage.
        num_heads: Attention heads in each stage, divisors of the stages' widths.
        window_size: Height and width of the windows.
        patch_size: Height and width of a patch: 4 as published, 1 or 2 for small images.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
    """

    no_weight_decay = ("relative_position_bias_table",)

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
        """Torchvision's network, which has the official initialisation."""
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
        check_images(images)
        check_multiples(
            f"Swin with patch_size {self.size_divisibility}", images.shape[-2], images.shape[-1], self.size_divisibility
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

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Norm and mean of the last map, and a linear head."""
        width = self.feature_info[-1].channels
        return PooledClassifier(width, num_classes, map_norm=ChannelNorm(width, eps=1e-5))


# Section 3.3 of the paper, with the drop path of the official configurations for ImageNet-1K.
VARIANTS: dict[str, Callable[[], Swin]] = {
    "swin_tiny": partial(Swin, (2, 2, 6, 2), 96, (3, 6, 12, 24), 7, drop_path=0.2),
    "swin_small": partial(Swin, (2, 2, 18, 2), 96, (3, 6, 12, 24), 7, drop_path=0.3),
    "swin_base": partial(Swin, (2, 2, 18, 2), 128, (4, 8, 16, 32), 7, drop_path=0.5),
}


def _published(size: str, top1: float, gmacs: float) -> Published:
    name = f"swin_{size}_patch4_window7_224.pth"
    weights = PublishedWeights(f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{name}", "MIT")
    return Published(top1, IMAGENET, 224, gmacs, "Liu et al. 2021", weights)


# Names in the checkpoints of `microsoft/Swin-Transformer` (the file's entry `model`), of timm and of torchvision. The
# official files also hold `attn_mask`, which depends on the image's size; our `Swin` computes it.
_TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
_INDEX = ".relative_position_index"
_LAYERS = {"mlp.0.": "mlp.fc1.", "mlp.3.": "mlp.fc2."}


def recognises_official(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `SwinTransformer`, whose stages end with the downsampling."""
    return _TABLE in keys and not recognises_timm(keys)


def recognises_timm(keys: Collection[str]) -> bool:
    """Whether these are the names of timm's `SwinTransformer`, whose stages begin with the downsampling."""
    downsampled = [f"layers.{stage}.downsample.reduction.weight" in keys for stage in (0, 1)]
    return _TABLE in keys and downsampled == [False, True]


def from_official(weights: Mapping[str, Tensor]) -> Weights:
    """Return an official state dict without masks, the pairs' positions in one row."""
    return {
        key: value.flatten() if key.endswith(_INDEX) else value
        for key, value in weights.items()
        if not key.endswith(".attn_mask")
    }


def exported(weights: Mapping[str, Tensor]) -> Weights:
    """Our weights with the official shapes: the pairs' positions as a matrix."""
    return {
        key: value.view(math.isqrt(value.numel()), -1) if key.endswith(_INDEX) else value
        for key, value in weights.items()
    }


def _from_timm(key: str) -> str:
    stage = re.match(r"layers\.(\d+)\.downsample\.", key)
    if stage:
        return f"layers.{int(stage[1]) - 1}.downsample.{key[stage.end() :]}"
    return re.sub(r"^head\.fc\.", "head.", key)


def official_key(key: str) -> str:
    """Return the official key of one of torchvision's, or of a parameter of ours."""
    key = key.removeprefix("network.")
    found = re.match(r"features\.(\d+)\.(.*)", key)
    if not found:
        return key
    part, rest = int(found[1]), found[2]
    if part == 0:
        layer, kind = rest.split(".")
        return f"patch_embed.{'proj' if layer == '0' else 'norm'}.{kind}"
    if part % 2 == 0:
        return f"layers.{part // 2 - 1}.downsample.{rest}"
    block, inside = rest.split(".", 1)
    for theirs, official in _LAYERS.items():
        inside = inside.replace(theirs, official)
    return f"layers.{part // 2}.blocks.{block}.{inside}"


def timm_arguments(backbone: Swin) -> dict[str, Expected]:
    """Return what the arguments of timm's `SwinTransformer` are for a backbone."""
    return {
        "patch_size": Expected((backbone.size_divisibility,), "patch_size"),
        "embed_dim": Expected((backbone.width,), "width"),
        "depths": Expected((backbone.depths,), "depths"),
        "num_heads": Expected((backbone.num_heads,), "num_heads"),
        "window_size": Expected((backbone.window_size,), "window_size", free=True),
        **fixed(head_dim=None, mlp_ratio=4.0, qkv_bias=True, always_partition=False),
        "norm_layer": Expected(("layernorm", None)),
    }


def yacs_arguments(backbone: Swin) -> dict[str, Expected]:
    """Return what the settings in the official configurations are for a backbone."""
    sizes = {name.upper(): value for name, value in timm_arguments(backbone).items()}
    fixed = {"IN_CHANS": 3, "QK_SCALE": None, "APE": False, "PATCH_NORM": True}
    return sizes | {name: Expected((value,)) for name, value in fixed.items()}


_MODELS = r"swin_(tiny|small|base|large)_patch4_window\d+_\d+"
FAMILY = Family(
    Swin,
    VARIANTS,
    {
        "swin_tiny": _published("tiny", 81.3, 4.5),
        "swin_small": _published("small", 83.0, 8.7),
        "swin_base": _published("base", 83.5, 15.4),
    },
    (
        Format(
            "Swin (microsoft/Swin-Transformer)",
            recognises_official,
            from_official,
            (yacs_config("swin", "SWIN", yacs_arguments, ("MODEL.SWINV2.*", "MODEL.SWIN_MOE.*", "MODEL.SWIN_MLP.*")),),
        ),
        Format(
            "Swin (timm)",
            recognises_timm,
            lambda weights: from_official({_from_timm(key): value for key, value in weights.items()}),
            (timm_config(_MODELS, "avg", timm_arguments), training_options(_MODELS, timm_arguments)),
        ),
        Format(
            "Swin (torchvision)",
            lambda keys: "features.1.0.attn.relative_position_bias_table" in keys,
            lambda weights: {official_key(key): value for key, value in weights.items()},
        ),
    ),
    official_key,
    exported=exported,
    counted={
        "swin_tiny": Counted(28_288_354, 4.49),
        "swin_small": Counted(49_606_258, 8.74),
        "swin_base": Counted(87_768_224, 15.43),
    },
)

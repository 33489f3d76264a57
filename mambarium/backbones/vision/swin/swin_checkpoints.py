"""Names in the checkpoints of `microsoft/Swin-Transformer` (the file's entry `model`), of timm and of torchvision.

The official files also hold `attn_mask`, which depends on the image's size; our `Swin` computes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format, Weights
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.backbones.published.yacs import yacs_config
from mambarium.backbones.vision.swin.swin_backbone import VARIANTS, Swin

_TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
_INDEX = ".relative_position_index"
_LAYERS = {"mlp.0.": "mlp.fc1.", "mlp.3.": "mlp.fc2."}


def backbone_key(name: str) -> str:
    """The published key of a parameter or buffer of our `Swin`."""
    return _from_torchvision(name.removeprefix("network."))


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `SwinClassifier`."""
    return name


def recognises_official(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `SwinTransformer`, whose stages end with the downsampling."""
    return _TABLE in keys and not recognises_timm(keys)


def recognises_timm(keys: Collection[str]) -> bool:
    """Whether these are the names of timm's `SwinTransformer`, whose stages begin with the downsampling."""
    downsampled = [f"layers.{stage}.downsample.reduction.weight" in keys for stage in (0, 1)]
    return _TABLE in keys and downsampled == [False, True]


def recognises_torchvision(keys: Collection[str]) -> bool:
    """Whether these are the names of torchvision's `SwinTransformer`."""
    return "features.1.0.attn.relative_position_bias_table" in keys


def from_official(weights: Mapping[str, Tensor]) -> Weights:
    """An official state dict without masks, the pairs' positions in one row."""
    return {
        key: value.flatten() if key.endswith(_INDEX) else value
        for key, value in weights.items()
        if not key.endswith(".attn_mask")
    }


def from_timm(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of timm with the official names."""
    return from_official({_from_timm(key): value for key, value in weights.items()})


def from_torchvision(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of torchvision with the official names."""
    return {_from_torchvision(key): value for key, value in weights.items()}


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


def _from_torchvision(key: str) -> str:
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
    """What the arguments of timm's `SwinTransformer` are for a backbone."""
    return {
        "patch_size": Expected((backbone.size_divisibility,), "patch_size"),
        "embed_dim": Expected((backbone.width,), "width"),
        "depths": Expected((backbone.depths,), "depths"),
        "num_heads": Expected((backbone.num_heads,), "num_heads"),
        "window_size": Expected((backbone.window_size,), "window_size", free=True),
        "head_dim": Expected((None,)),
        "mlp_ratio": Expected((4.0,)),
        "qkv_bias": Expected((True,)),
        "always_partition": Expected((False,)),
        "norm_layer": Expected(("layernorm", None)),
    }


def yacs_arguments(backbone: Swin) -> dict[str, Expected]:
    """What the settings in the official configurations are for a backbone."""
    sizes = {name.upper(): value for name, value in timm_arguments(backbone).items()}
    fixed = {"IN_CHANS": 3, "QK_SCALE": None, "APE": False, "PATCH_NORM": True}
    return sizes | {name: Expected((value,)) for name, value in fixed.items()}


_MODELS = r"swin_(tiny|small|base|large)_patch4_window\d+_\d+"
OFFICIAL = Format(
    "Swin (microsoft/Swin-Transformer)",
    Swin,
    VARIANTS,
    recognises_official,
    from_official,
    backbone_key,
    classifier_key,
    exported=exported,
    configurations=(
        yacs_config("swin", "SWIN", yacs_arguments, ("MODEL.SWINV2.*", "MODEL.SWIN_MOE.*", "MODEL.SWIN_MLP.*")),
    ),
)
TIMM = Format(
    "Swin (timm)",
    Swin,
    VARIANTS,
    recognises_timm,
    from_timm,
    backbone_key,
    classifier_key,
    configurations=(timm_config(_MODELS, "avg", timm_arguments), training_options(_MODELS, timm_arguments)),
)
TORCHVISION = Format(
    "Swin (torchvision)", Swin, VARIANTS, recognises_torchvision, from_torchvision, backbone_key, classifier_key
)

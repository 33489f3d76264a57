"""Names in the checkpoints of `facebookresearch/ConvNeXt` (the file's entry `model`), of timm and of torchvision."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format, Weights
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.backbones.vision.convnext.convnext_backbone import VARIANTS, ConvNeXt

_LAYERS = {"block.0": "dwconv", "block.2": "norm", "block.3": "pwconv1", "block.5": "pwconv2", "layer_scale": "gamma"}
_FROM_TIMM = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.", r"stages.\1.\2.dwconv."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc(\d)\.", r"stages.\1.\2.pwconv\3."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
)
_HEAD = {"classifier.0.": "norm.", "classifier.2.": "head."}


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `ConvNeXt`."""
    return _from_torchvision(name.removeprefix("network."))


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `ConvNeXtClassifier`."""
    return name


def recognises_official(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `ConvNeXt`."""
    return "downsample_layers.0.0.weight" in keys and "stages.0.0.dwconv.weight" in keys


def recognises_timm(keys: Collection[str]) -> bool:
    """Whether these are the names of timm's `ConvNeXt`."""
    return "stem.0.weight" in keys and "stages.0.blocks.0.conv_dw.weight" in keys


def recognises_torchvision(keys: Collection[str]) -> bool:
    """Whether these are the names of torchvision's `ConvNeXt`."""
    return "features.0.0.weight" in keys and "features.1.0.layer_scale" in keys


def from_official(weights: Mapping[str, Tensor]) -> Weights:
    """An official state dict, the factors on the branches shaped as ours for maps with channels first."""
    return {key: value.view(-1, 1, 1) if key.endswith(".gamma") else value for key, value in weights.items()}


def from_timm(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of timm with the official names."""
    return from_official({_from_timm(key): value for key, value in weights.items()})


def from_torchvision(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of torchvision with the official names."""
    return {_from_torchvision(key): value for key, value in weights.items()}


def exported(weights: Mapping[str, Tensor]) -> Weights:
    """Our weights with the official shapes: one factor per channel."""
    return {key: value.flatten() if key.endswith(".gamma") else value for key, value in weights.items()}


def _from_timm(key: str) -> str:
    for pattern, replacement in _FROM_TIMM:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def _from_torchvision(key: str) -> str:
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
    """What the arguments of timm's `ConvNeXt` are for a backbone."""
    return {
        "depths": Expected((backbone.depths,), "depths"),
        "dims": Expected((backbone.widths,), "widths"),
        "patch_size": Expected((backbone.patch_size,), "patch_size"),
        "output_stride": Expected((backbone.feature_info[-1].stride,)),
        "kernel_sizes": Expected((7,)),
        "stem_type": Expected(("patch",)),
        "head_norm_first": Expected((False,)),
        "head_hidden_size": Expected((None,)),
        "conv_mlp": Expected((False,)),
        "conv_bias": Expected((True,)),
        "use_grn": Expected((False,)),
        "act_layer": Expected(("gelu", None)),
        "norm_layer": Expected(("layernorm", None)),
        "norm_eps": Expected((1e-6, None)),
    }


_MODELS = r"convnext_(tiny|small|base|large|xlarge)"
OFFICIAL = Format(
    "ConvNeXt (facebookresearch/ConvNeXt)",
    ConvNeXt,
    VARIANTS,
    recognises_official,
    from_official,
    backbone_key,
    classifier_key,
    exported=exported,
    configurations=(training_options(_MODELS),),
)
TIMM = Format(
    "ConvNeXt (timm)",
    ConvNeXt,
    VARIANTS,
    recognises_timm,
    from_timm,
    backbone_key,
    classifier_key,
    configurations=(timm_config(_MODELS, "avg", timm_arguments), training_options(_MODELS, timm_arguments)),
)
TORCHVISION = Format(
    "ConvNeXt (torchvision)", ConvNeXt, VARIANTS, recognises_torchvision, from_torchvision, backbone_key, classifier_key
)

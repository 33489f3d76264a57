"""Names in the checkpoints of `yuweihao/MambaOut` (the file is the state dict), and in timm's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format, Weights
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.backbones.vision.mambaout.mambaout_backbone import VARIANTS, GatedCNNBlock, MambaOut
from mambarium.errors import InputError

_FROM_TIMM = (
    (re.compile(r"^stem\."), "downsample_layers.0."),
    (re.compile(r"^stages\.(\d+)\.downsample\."), r"downsample_layers.\1."),
    (re.compile(r"^stages\.(\d+)\.blocks\."), r"stages.\1."),
    (re.compile(r"^head\.norm\."), "norm."),
    (re.compile(r"^head\.pre_logits\.fc\."), "head.fc1."),
    (re.compile(r"^head\.pre_logits\.norm\."), "head.norm."),
    (re.compile(r"^head\.fc\."), "head.fc2."),
)


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `MambaOut`.

    Raises:
        InputError: For a parameter of the SSM, which published models don't have.
    """
    if ".ssm." in name:
        raise InputError("MambaOut with an SSM has no published weights: set ssm to false")
    return name.replace("blocks.", "stages.", 1) if name.startswith("blocks.") else name


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `MambaOutClassifier`."""
    return name


def recognises_official(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `MambaOut`."""
    return "downsample_layers.0.conv1.weight" in keys and "stages.0.0.fc1.weight" in keys


def recognises_timm(keys: Collection[str]) -> bool:
    """Whether these are the names of timm's `MambaOut`."""
    return "stem.conv1.weight" in keys and "stages.0.blocks.0.fc1.weight" in keys


def from_timm(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of timm with the official names."""
    return {_official(key): value for key, value in weights.items()}


def _official(key: str) -> str:
    for pattern, replacement in _FROM_TIMM:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    return key


def timm_arguments(backbone: MambaOut) -> dict[str, Expected]:
    """What the arguments of timm's `MambaOut` are for a backbone."""
    widths = tuple(feature.channels for feature in backbone.feature_info)
    block = backbone.blocks[0][0]  # type: ignore[index]  # stages are sequences of blocks
    assert isinstance(block, GatedCNNBlock)
    hidden, _, convolved = block.split_sizes
    return {
        "depths": Expected((backbone.depths,), "depths"),
        "dims": Expected((widths,), "widths"),
        "expansion_ratio": Expected((hidden,), "expansion", lambda ratio: int(ratio * widths[0])),
        "conv_ratio": Expected((convolved,), "conv_ratio", lambda ratio: int(ratio * widths[0])),
        "kernel_size": Expected((block.conv.kernel_size[0],), "kernel_size"),
        "stem_mid_norm": Expected((True,)),
        "ls_init_value": Expected((None,)),
        "downsample": Expected(("conv",)),
        "head_fn": Expected(("default",)),
        "act_layer": Expected(("gelu", None)),
        "norm_layer": Expected(("layernorm", None)),
    }


_MODELS = r"mambaout_(femto|kobe|tiny|small|base)"
OFFICIAL = Format(
    "MambaOut (yuweihao/MambaOut)",
    MambaOut,
    VARIANTS,
    recognises_official,
    dict,
    backbone_key,
    classifier_key,
    configurations=(training_options(_MODELS),),
)
TIMM = Format(
    "MambaOut (timm)",
    MambaOut,
    VARIANTS,
    recognises_timm,
    from_timm,
    backbone_key,
    classifier_key,
    configurations=(timm_config(_MODELS, "avg", timm_arguments), training_options(_MODELS, timm_arguments)),
)

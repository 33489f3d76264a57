"""Names in the checkpoints of `facebookresearch/deit` (the file's entry `model`), as timm's, and of torchvision."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format, Weights
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.backbones.vision.vit.vit_backbone import VARIANTS, ViT

_BLOCK = r"^encoder\.layers\.encoder_layer_(\d+)\."
_FROM_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (_BLOCK + r"ln_(\d)\.", r"blocks.\1.norm\2."),
    (_BLOCK + r"self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (_BLOCK + r"self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    # "linear_1" and "linear_2" in torchvision's older files.
    (_BLOCK + r"mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (_BLOCK + r"mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `ViT`."""
    return _official(name.removeprefix("network."))


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `ViTClassifier`."""
    return name


def recognises_official(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VisionTransformer`."""
    return "patch_embed.proj.weight" in keys and "blocks.0.attn.qkv.weight" in keys


def recognises_torchvision(keys: Collection[str]) -> bool:
    """Whether these are the names of torchvision's `VisionTransformer`."""
    return "conv_proj.weight" in keys and "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in keys


def from_torchvision(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of torchvision with the official names."""
    return {_official(key): value for key, value in weights.items()}


def _official(key: str) -> str:
    for pattern, replacement in _FROM_TORCHVISION:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def timm_arguments(backbone: ViT) -> dict[str, Expected]:
    """What the arguments of timm's `VisionTransformer` are for a backbone."""
    absent = Expected((None, False))
    return {
        "patch_size": Expected((backbone.patch_size,), "patch_size"),
        "embed_dim": Expected((backbone.width,), "width"),
        "depth": Expected((backbone.depth,), "depth"),
        "num_heads": Expected((backbone.num_heads,), "num_heads"),
        "mlp_ratio": Expected((backbone.mlp_width,), "mlp_ratio", lambda ratio: int(ratio * backbone.width)),
        **{name: Expected((True,)) for name in ("qkv_bias", "proj_bias", "class_token", "final_norm")},
        **{name: absent for name in ("qk_norm", "scale_attn_norm", "scale_mlp_norm", "pre_norm", "fc_norm")},
        **{name: absent for name in ("no_embed_class", "pool_include_prefix", "init_values", "embed_norm_layer")},
        "pos_embed": Expected(("learn",)),
        "reg_tokens": Expected((0,)),
        "act_layer": Expected(("gelu", None)),
        "norm_layer": Expected(("layernorm", None)),
    }


def untraced(backbone: ViT) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    return {"num_heads": Expected((backbone.num_heads,), "num_heads")}


# Not those with another activation or norm in their names ("clip", "quickgelu", "gap", "rpn", ...).
_MODELS = r"(deit|vit)_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+"
OFFICIAL = Format(
    "DeiT (facebookresearch/deit, timm)",
    ViT,
    VARIANTS,
    recognises_official,
    dict,
    backbone_key,
    classifier_key,
    configurations=(timm_config(_MODELS, "token", timm_arguments), training_options(_MODELS, timm_arguments)),
    untraced=untraced,
)
TORCHVISION = Format(
    "ViT (torchvision)",
    ViT,
    VARIANTS,
    recognises_torchvision,
    from_torchvision,
    backbone_key,
    classifier_key,
    untraced=untraced,
)

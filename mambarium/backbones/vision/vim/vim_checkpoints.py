"""Names in the checkpoints of `hustvl/Vim` (the entry `model` of the file)."""

from __future__ import annotations

import re
from collections.abc import Collection

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format
from mambarium.backbones.published.timm import training_options
from mambarium.backbones.vision.vim.vim_backbone import VARIANTS, Vim

# A model's name says what its code does: "div2" that the output is halved, "midclstok" where the class token is.
_MODELS = (
    r"vim_[a-z]+_patch\d+_(stride\d+_)?\d+_bimambav2_final_pool_(mean|all|none)_abs_pos_embed_with_"
    r"(midclstok|middle_cls_token)_div2"
)
_BACKWARD_SCAN = {"A_log": "A_b_log", "D": "D_b"}


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `Vim`."""
    if ".backward_ssm." in name:
        mixer, parameter = name.split(".backward_ssm.")
        if parameter in _BACKWARD_SCAN:
            return f"{mixer}.{_BACKWARD_SCAN[parameter]}"
        layer, kind = parameter.split(".")
        return f"{mixer}.{layer}_b.{kind}"
    return name.replace(".forward_ssm.", ".")


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VimClassifier`."""
    return name


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VisionMamba` with blocks of type "v2"."""
    return "patch_embed.proj.weight" in keys and "layers.0.mixer.x_proj_b.weight" in keys


def options(backbone: Vim) -> dict[str, Expected]:
    """What the script's options are for a backbone; overlapping patches have a "stride" in the model's name."""
    return {
        "model": Expected((backbone.stride,), "stride", _stride, free=True),
        "if_random_cls_token_position": Expected((False,)),
        "if_random_token_rank": Expected((False,)),
    }


def _stride(model: str) -> int:
    found = re.search(r"_stride(\d+)_", model) or re.search(r"_patch(\d+)_", model)
    return int(found[1]) if found else 0


FORMAT = Format(
    "Vim (hustvl/Vim)",
    Vim,
    VARIANTS,
    recognises,
    dict,
    backbone_key,
    classifier_key,
    configurations=(training_options(_MODELS, options=options),),
)

"""Names in the checkpoints of `hustvl/Vim` (the entry `model` of the file)."""

import re

from mambarium.backbones.published.configuration import Expected, fixed
from mambarium.backbones.published.family import IMAGENET, Counted, Family, Format, Published, PublishedWeights, having
from mambarium.backbones.published.timm import training_options
from mambarium.backbones.vision.vim.vim_backbone import VARIANTS, Vim

# A model's name says what its code does: "div2" that the output is halved, "midclstok" where the class token is.
_MODELS = (
    r"vim_[a-z]+_patch\d+_(stride\d+_)?\d+_bimambav2_final_pool_(mean|all|none)_abs_pos_embed_with_"
    r"(midclstok|middle_cls_token)_div2"
)
_BACKWARD_SCAN = {"A_log": "A_b_log", "D": "D_b"}


def backbone_key(name: str) -> str:
    """Return the published key of a parameter of our `Vim`."""
    if ".backward_ssm." in name:
        mixer, parameter = name.split(".backward_ssm.")
        if parameter in _BACKWARD_SCAN:
            return f"{mixer}.{_BACKWARD_SCAN[parameter]}"
        layer, kind = parameter.split(".")
        return f"{mixer}.{layer}_b.{kind}"
    return name.replace(".forward_ssm.", ".")


def options(backbone: Vim) -> dict[str, Expected]:
    """Return what the script's options are for a backbone; overlapping patches have a "stride" in the model's name."""
    return {
        "model": Expected((backbone.stride,), "stride", _stride, free=True),
        **fixed(if_random_cls_token_position=False, if_random_token_rank=False),
    }


def _stride(model: str) -> int:
    found = re.search(r"_stride(\d+)_", model) or re.search(r"_patch(\d+)_", model)
    return int(found[1]) if found else 0


def _published(top1: float, address: str) -> Published:
    weights = PublishedWeights(f"hustvl/{address}", "Apache-2.0; the model cards also say non-commercial")
    return Published(top1, IMAGENET, 224, None, "hustvl/Vim", weights)


FAMILY = Family(
    Vim,
    VARIANTS,
    {
        "vim_tiny": _published(76.1, "Vim-tiny-midclstok:vim_t_midclstok_76p1acc.pth"),
        "vim_tiny_stride8": _published(78.3, "Vim-tiny-midclstok:vim_t_midclstok_ft_78p3acc.pth"),
        "vim_small": _published(80.5, "Vim-small-midclstok:vim_s_midclstok_80p5acc.pth"),
        "vim_base": _published(81.9, "Vim-base-midclstok:vim_b_midclstok_81p9acc.pth"),
    },
    (
        Format(
            "Vim (hustvl/Vim)",
            having("patch_embed.proj.weight", "layers.0.mixer.x_proj_b.weight"),
            configurations=(training_options(_MODELS, options=options),),
        ),
    ),
    backbone_key,
    counted={
        "vim_tiny": Counted(7_148_008, 1.56),
        "vim_tiny_stride8": Counted(7_250_344, 5.77),
        "vim_small": Counted(25_796_584, 5.38),
        "vim_base": Counted(97_598_440, 19.83),
    },
)

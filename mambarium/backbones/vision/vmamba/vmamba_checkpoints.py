"""Names in the checkpoints of `MzeroMiko/VMamba`.

The weights are the file's entry `model`; `model_ema`, where there is one, holds their average over training. The code
that trained the first generation named some parts otherwise than the code as it is now, and some files store
projections as 1x1 convolutions: `current_format` brings both to the present names and shapes, for which the other
functions give our parameters' keys.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected, fixed
from mambarium.backbones.published.family import (
    IMAGENET,
    Counted,
    Family,
    Format,
    Published,
    PublishedWeights,
    Weights,
    renamed,
)
from mambarium.backbones.published.yacs import yacs_config
from mambarium.backbones.vision.vmamba.vmamba_backbone import VARIANTS, PatchStem, VMamba

# The parts of the second generation's stem and downsampling stand in sequences, between permutations and a GELU.
_PRESENT = {
    r"^stem\.(conv1|conv)\.": "patch_embed.0.",
    r"^stem\.(norm1|norm)\.": "patch_embed.2.",
    r"^stem\.conv2\.": "patch_embed.5.",
    r"^stem\.norm2\.": "patch_embed.7.",
    r"^downsample_layers\.(\d+)\.conv\.": r"layers.\1.downsample.1.",
    r"^downsample_layers\.(\d+)\.norm\.": r"layers.\1.downsample.3.",
    r"^downsample_layers\.(\d+)\.merged_norm\.": r"layers.\1.downsample.norm.",
    r"^downsample_layers\.(\d+)\.reduction\.": r"layers.\1.downsample.reduction.",
    r"^blocks\.(\d+)\.(\d+)\.ss2d\.": r"layers.\1.blocks.\2.op.",
    r"^blocks\.(\d+)\.(\d+)\.mlp\.norm\.": r"layers.\1.blocks.\2.norm2.",
    r"^blocks\.(\d+)\.(\d+)\.": r"layers.\1.blocks.\2.",
}
_FORMER = {
    r"^patch_embed\.proj\.": "patch_embed.0.",
    r"^patch_embed\.norm\.": "patch_embed.2.",
    r"^(layers\.\d+\.blocks\.\d+)\.ln_1\.": r"\1.norm.",
    r"^(layers\.\d+\.blocks\.\d+)\.self_attention\.": r"\1.op.",
    r"^(norm|head)\.": r"classifier.\1.",
}
_PROJECTION = re.compile(r"\.(in_proj|out_proj|fc1|fc2|reduction)\.weight$")


def backbone_key(name: str) -> str:
    """Return the published key of a parameter of our `VMamba`."""
    return renamed(name, _PRESENT)


def head_key(name: str) -> str:
    """Return the published key of a parameter of our classifier."""
    return f"classifier.{name}"


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VSSM`, old or new; LocalVMamba has them and others."""
    first = any(f"layers.0.blocks.0.{scan}.x_proj_weight" in keys for scan in ("op", "self_attention"))
    return first and not any(".op.multi_scan." in key for key in keys)


def current_format(weights: Mapping[str, Tensor]) -> Weights:
    """Return a published state dict with the names and shapes of the official code as it is now."""
    return {
        renamed(key, _FORMER): value.flatten(1) if _PROJECTION.search(key) else value for key, value in weights.items()
    }


def arguments(backbone: VMamba) -> dict[str, Expected]:
    """Return what the settings in the official configurations are for a backbone."""
    first = isinstance(backbone.stem, PatchStem)
    widths = tuple(feature.channels for feature in backbone.feature_info)
    d_state = backbone.get_parameter("blocks.0.0.ss2d.A_logs").shape[1]
    d_inner = backbone.get_parameter("blocks.0.0.ss2d.out_norm.weight").shape[0]
    mlp = [value.shape[0] for name, value in backbone.named_parameters() if name == "blocks.0.0.mlp.fc1.weight"]
    return {
        "PATCH_SIZE": Expected((backbone.feature_info[0].stride,), "stem_stride"),
        "IN_CHANS": Expected((3,)),
        "DEPTHS": Expected((backbone.depths,), "depths"),
        "EMBED_DIM": Expected((widths[0], widths), "widths"),
        "SSM_D_STATE": Expected((d_state,), "d_state"),
        "SSM_RATIO": Expected((d_inner,), "ssm_ratio", lambda ratio: int(ratio * widths[0])),
        **fixed(SSM_DT_RANK="auto", SSM_ACT_LAYER="silu", SSM_CONV=3, SSM_CONV_BIAS=first),
        "SSM_FORWARDTYPE": Expected(("v0" if first else "v05_noz",), "forward_type", _forward_type),
        "MLP_RATIO": Expected((mlp[0] if mlp else 0,), "mlp_ratio", lambda ratio: int(max(ratio, 0) * widths[0])),
        **fixed(MLP_ACT_LAYER="gelu", PATCH_NORM=True),
        "NORM_LAYER": Expected(("ln2d", "ln")),
        "DOWNSAMPLE": Expected(("v1" if first else "v3",), "forward_type"),
        "PATCHEMBED": Expected(("v1" if first else "v2",), "forward_type"),
        **fixed(POSEMBED=False, GMLP=False),
    }


def _forward_type(written: str) -> str:
    """One name for the forward types that compute the same: with other kernels, or rounding elsewhere."""
    if re.fullmatch(r"v0?[2-5]_?noz(_no32|_f32)?", written):
        return "v05_noz"
    return "v0" if written in ("v0_seq", "v0seq") else written


_V0 = "https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/"
_V2 = "https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/"


def _published(top1: float, gmacs: float, address: str) -> Published:
    return Published(top1, IMAGENET, 224, gmacs, "MzeroMiko/VMamba", PublishedWeights(address, "MIT"))


FAMILY = Family(
    VMamba,
    VARIANTS,
    {
        "vmamba_tiny_v0": _published(82.2, 5.6, _V0 + "vssmtiny_dp01_ckpt_epoch_292.pth"),
        "vmamba_small_v0": _published(83.5, 11.2, _V0 + "vssmsmall_dp03_ckpt_epoch_238.pth"),
        "vmamba_base_v0": _published(83.7, 18.0, _V0 + "vssmbase_dp06_ckpt_epoch_241.pth"),
        "vmamba_tiny_s2l5": _published(82.5, 4.9, _V2 + "vssm_tiny_0230_ckpt_epoch_262.pth"),
        "vmamba_small_s2l15": _published(83.6, 8.7, _V2 + "vssm_small_0229_ckpt_epoch_222.pth"),
        "vmamba_base_s2l15": _published(83.9, 15.4, _V2 + "vssm_base_0229_ckpt_epoch_237.pth"),
        "vmamba_tiny_s1l8": _published(82.6, 4.9, _V2 + "vssm1_tiny_0230s_ckpt_epoch_264.pth"),
        "vmamba_small_s1l20": _published(83.3, 8.6, _V2 + "vssm1_small_0229s_ckpt_epoch_240.pth"),
        "vmamba_base_s1l20": _published(83.8, 15.2, _V2 + "vssm1_base_0229s_ckpt_epoch_225.pth"),
    },
    (
        Format(
            "VMamba (MzeroMiko/VMamba)",
            recognises,
            current_format,
            (
                yacs_config(
                    "vssm",
                    "VSSM",
                    arguments,
                    tuple(f"MODEL.VSSM.{name}" for name in ("*DROP_RATE", "SSM_INIT", "SSM_RANK_RATIO")),
                ),
            ),
        ),
    ),
    backbone_key,
    head_key,
    evaluates_average=True,
    counted={
        "vmamba_tiny_v0": Counted(22_893_448, 4.64),
        "vmamba_small_v0": Counted(44_417_416, 9.44),
        "vmamba_base_v0": Counted(76_254_056, 15.63),
        "vmamba_tiny_s2l5": Counted(30_705_832, 4.77),
        "vmamba_small_s2l15": Counted(50_147_752, 8.58),
        "vmamba_base_s2l15": Counted(88_557_800, 15.18),
        "vmamba_tiny_s1l8": Counted(30_249_064, 4.84),
        "vmamba_small_s1l20": Counted(49_012_840, 8.52),
        "vmamba_base_s1l20": Counted(86_614_504, 15.10),
    },
)

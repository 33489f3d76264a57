"""Names in the checkpoints of `MzeroMiko/VMamba`.

The weights are the file's entry `model`; `model_ema`, where there is one, holds their average over training. The code
that trained the first generation named some parts otherwise than the code as it is now, and some files store
projections as 1x1 convolutions: `current_format` brings both to the present names and shapes, for which the other
functions give our parameters' keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format, Weights
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
    """The published key of a parameter of our `VMamba`."""
    return _renamed(name, _PRESENT)


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VMambaClassifier`."""
    return f"classifier.{name}"


def output_norms_key(name: str) -> str:
    """The key of a parameter of `VMamba.output_norms()` in the official detection and segmentation checkpoints."""
    return re.sub(r"^norms\.(\d+)\.", r"outnorm\1.", name)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VSSM`, as the first or the present code wrote them."""
    return any(f"layers.0.blocks.0.{scan}.x_proj_weight" in keys for scan in ("op", "self_attention"))


def current_format(weights: Mapping[str, Tensor]) -> Weights:
    """A published state dict with the names and shapes of the official code as it is now.

    Args:
        weights: State dict of either generation, names as the first or the present code wrote them.
    """
    return {
        _renamed(key, _FORMER): value.flatten(1) if _PROJECTION.search(key) else value for key, value in weights.items()
    }


def _renamed(name: str, rules: Mapping[str, str]) -> str:
    """The name after the first rule that applies to it."""
    for pattern, replacement in rules.items():
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def arguments(backbone: VMamba) -> dict[str, Expected]:
    """What the settings in the official configurations are for a backbone."""
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
        "SSM_DT_RANK": Expected(("auto",)),
        "SSM_ACT_LAYER": Expected(("silu",)),
        "SSM_CONV": Expected((3,)),
        "SSM_CONV_BIAS": Expected((first,)),
        "SSM_FORWARDTYPE": Expected(("v0" if first else "v05_noz",), "forward_type", _forward_type),
        "MLP_RATIO": Expected((mlp[0] if mlp else 0,), "mlp_ratio", lambda ratio: int(max(ratio, 0) * widths[0])),
        "MLP_ACT_LAYER": Expected(("gelu",)),
        "PATCH_NORM": Expected((True,)),
        "NORM_LAYER": Expected(("ln2d", "ln")),
        "DOWNSAMPLE": Expected(("v1" if first else "v3",), "forward_type"),
        "PATCHEMBED": Expected(("v1" if first else "v2",), "forward_type"),
        "POSEMBED": Expected((False,)),
        "GMLP": Expected((False,)),
    }


def _forward_type(written: str) -> str:
    """One name for the forward types that compute the same: with other kernels, or rounding elsewhere."""
    if re.fullmatch(r"v0?[2-5]_?noz(_no32|_f32)?", written):
        return "v05_noz"
    return "v0" if written in ("v0_seq", "v0seq") else written


FORMAT = Format(
    "VMamba (MzeroMiko/VMamba)",
    VMamba,
    VARIANTS,
    recognises,
    current_format,
    backbone_key,
    classifier_key,
    evaluates_average=True,
    configurations=(
        yacs_config(
            "vssm",
            "VSSM",
            arguments,
            tuple(f"MODEL.VSSM.{name}" for name in ("*DROP_RATE", "SSM_INIT", "SSM_RANK_RATIO")),
        ),
    ),
)

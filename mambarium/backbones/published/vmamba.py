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

from mambarium.backbones.published.format import Format, Weights
from mambarium.backbones.vmamba import VARIANTS, VMamba

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


FORMAT = Format(
    "VMamba (MzeroMiko/VMamba)",
    VMamba,
    VARIANTS,
    recognises,
    current_format,
    backbone_key,
    classifier_key,
    evaluates_average=True,
)

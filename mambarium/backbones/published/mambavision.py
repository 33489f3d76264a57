"""Names in the checkpoints of `NVlabs/MambaVision` (the entry `state_dict` of the file).

The hub's files for transformers hold the same names behind the prefix "model.".
"""

from __future__ import annotations

from collections.abc import Collection

from mambarium.backbones.mambavision import VARIANTS, MambaVision
from mambarium.backbones.published.format import Format

_STEM = {"conv1": "conv_down.0", "norm1": "conv_down.1", "conv2": "conv_down.3", "norm2": "conv_down.4"}


def backbone_key(name: str) -> str:
    """The published key of a parameter or buffer of our `MambaVision`."""
    part, stage, rest = name.split(".", 2)
    if part == "levels":
        return f"levels.{stage}.blocks.{rest}"
    if stage != "0":
        # There, a stage ends with the downsampling that begins our next one.
        return f"levels.{int(stage) - 1}.downsample.reduction.0.{rest}"
    layer, kind = rest.split(".")
    return f"patch_embed.{_STEM[layer]}.{kind}"


def classifier_key(name: str) -> str:
    """The published key of a parameter or buffer of our `MambaVisionClassifier`."""
    return name


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `MambaVision`."""
    return "patch_embed.conv_down.0.weight" in keys and "levels.0.blocks.0.conv1.weight" in keys


FORMAT = Format(
    "MambaVision (NVlabs/MambaVision)", MambaVision, VARIANTS, recognises, dict, backbone_key, classifier_key
)

"""Names in the checkpoints of `NVlabs/MambaVision` (the entry `state_dict` of the file).

The hub's files for transformers hold the same names behind the prefix "model.", and have a `config.json` beside them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from mambarium.backbones.published.configuration import CONFIG_FILE, ConfigurationFormat, Expected
from mambarium.backbones.published.format import Format
from mambarium.backbones.published.timm import training_options
from mambarium.backbones.published.transformers import COMMON_FIELDS
from mambarium.backbones.vision.mambavision.mambavision_backbone import (
    VARIANTS,
    MambaVision,
    MambaVisionMixer,
    MixerBlock,
    SelfAttention,
    WindowedStage,
)

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


def arguments(backbone: MambaVision) -> dict[str, Expected]:
    """What the arguments of the official `MambaVision` are for a backbone."""
    windowed = _windowed_stages(backbone)
    hidden = backbone.feature_info[-1].channels
    return {
        "depths": Expected((backbone.depths,), "depths"),
        "dim": Expected((backbone.feature_info[0].channels,), "width"),
        "in_dim": Expected((backbone.get_parameter("downsample_layers.0.conv1.weight").shape[0],), "stem_width"),
        "mlp_ratio": Expected(
            (_mixer_blocks(backbone)[-1].mlp.fc1.out_features,), "mlp_ratio", lambda ratio: int(ratio * hidden)
        ),
        # Stages of convolutions have no heads and no windows, but numbers of them.
        "num_heads": Expected((_num_heads(backbone),), "num_heads", lambda heads: _with_heads(backbone, heads)),
        "window_size": Expected(
            (tuple(stage.window_size for stage in windowed),),
            "window_sizes",
            lambda sizes: tuple(sizes[-len(windowed) :]) if isinstance(sizes, list | tuple) else sizes,
            free=True,
        ),
        "qkv_bias": Expected((True,)),
        "qk_scale": Expected((None, False)),
        "layer_scale_conv": Expected((None,)),
        "in_chans": Expected((3,)),
    }


def untraced(backbone: MambaVision) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    mixers = [block.mixer for block in _mixer_blocks(backbone) if isinstance(block.mixer, MambaVisionMixer)]
    windows = arguments(backbone)["window_size"]
    return {
        "num_heads": Expected((_num_heads(backbone),), "num_heads"),
        "causal": Expected((any(mixer.look_ahead == 0 for mixer in mixers),), "causal"),
        "window_sizes": windows,
    }


def _windowed_stages(backbone: MambaVision) -> list[WindowedStage]:
    return [stage for stage in backbone.levels if isinstance(stage, WindowedStage)]


def _mixer_blocks(backbone: MambaVision) -> list[MixerBlock]:
    return [block for stage in _windowed_stages(backbone) for block in stage if isinstance(block, MixerBlock)]


def _heads(stage: nn.Module) -> int | None:
    """The attention heads of a stage's blocks, None if none of them attends."""
    return next((module.num_heads for module in stage.modules() if isinstance(module, SelfAttention)), None)


def _num_heads(backbone: MambaVision) -> tuple[int, ...]:
    return tuple(heads for stage in backbone.levels if (heads := _heads(stage)) is not None)


def _with_heads(backbone: MambaVision, numbers: Any) -> Any:
    """Of numbers for all stages those of stages that attend."""
    if not isinstance(numbers, list | tuple) or len(numbers) != len(backbone.levels):
        return numbers
    return [number for number, stage in zip(numbers, backbone.levels, strict=True) if _heads(stage) is not None]


TRANSFORMERS_CONFIG = ConfigurationFormat(
    CONFIG_FILE,
    {"model_type": "mambavision", "architectures": r"MambaVisionModel(ForImageClassification)?"},
    arguments,
    # The code that they name is that of this family.
    harmless=(*COMMON_FIELDS, "auto_map.*", "resolution", "*drop*_rate", "layer_scale", "num_classes"),
)
FORMAT = Format(
    "MambaVision (NVlabs/MambaVision)",
    MambaVision,
    VARIANTS,
    recognises,
    dict,
    backbone_key,
    classifier_key,
    configurations=(
        TRANSFORMERS_CONFIG,
        training_options(r"mamba_vision_(T2?|S|B|L[23]?)(_\d+)?(_21k)?", arguments),
    ),
    untraced=untraced,
)

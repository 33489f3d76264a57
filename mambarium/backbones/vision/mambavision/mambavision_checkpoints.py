"""Names in the checkpoints of `NVlabs/MambaVision` (the entry `state_dict` of the file).

The hub's files for transformers hold the same names behind the prefix "model.", and have a `config.json` beside them.
"""

from typing import Any

from torch import nn

from mambarium.backbones.published.configuration import CONFIG_FILE, ConfigurationFormat, Expected, fixed
from mambarium.backbones.published.family import (
    IMAGENET,
    Counted,
    Evaluation,
    Family,
    Format,
    Published,
    PublishedWeights,
    having,
)
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
    """Return the published key of a parameter or buffer of our `MambaVision`."""
    part, stage, rest = name.split(".", 2)
    if part == "levels":
        return f"levels.{stage}.blocks.{rest}"
    if stage != "0":
        # There, a stage ends with the downsampling that begins our next one.
        return f"levels.{int(stage) - 1}.downsample.reduction.0.{rest}"
    layer, kind = rest.split(".")
    return f"patch_embed.{_STEM[layer]}.{kind}"


def arguments(backbone: MambaVision) -> dict[str, Expected]:
    """Return what the arguments of the official `MambaVision` are for a backbone."""
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
        **fixed(layer_scale_conv=None, in_chans=3),
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
    """Return the attention heads of a stage's blocks, None if none of them attends."""
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


def _published(top1: float, gmacs: float, address: str, evaluation: Evaluation) -> Published:
    weights = PublishedWeights(f"nvidia/MambaVision-{address}.pth.tar", "CC-BY-NC-SA-4.0", evaluation)
    return Published(top1, IMAGENET, evaluation.size, gmacs, "NVlabs/MambaVision", weights)


_WHOLE = Evaluation(crop=1.0)
_LARGE = Evaluation(512, 0.93, squash=True)
FAMILY = Family(
    MambaVision,
    VARIANTS,
    {
        "mambavision_t": _published(82.3, 4.4, "T-1K:mambavision_tiny_1k", _WHOLE),
        "mambavision_t2": _published(82.7, 5.1, "T2-1K:mambavision_tiny2_1k", Evaluation(crop=0.98)),
        "mambavision_s": _published(83.3, 7.5, "S-1K:mambavision_small_1k", Evaluation(crop=0.93)),
        "mambavision_b": _published(84.2, 15.0, "B-1K:mambavision_base_1k", _WHOLE),
        "mambavision_b_21k": _published(84.9, 15.0, "B-21K:mambavision_base_21k", _WHOLE),
        "mambavision_l": _published(85.0, 34.9, "L-1K:mambavision_large_1k", _WHOLE),
        "mambavision_l_21k": _published(86.1, 34.9, "L-21K:mambavision_large_21k", _WHOLE),
        "mambavision_l2": _published(85.3, 37.5, "L2-1K:mambavision_large2_1k", _WHOLE),
        "mambavision_l2_512_21k": _published(87.3, 196.3, "L2-512-21K:mambavision_L2_21k_240m_512", _LARGE),
        "mambavision_l3_256_21k": _published(
            87.3, 122.3, "L3-256-21K:mambavision_L3_21k_740m_256", Evaluation(256, 1.0)
        ),
        "mambavision_l3_512_21k": _published(88.1, 489.1, "L3-512-21K:mambavision_L3_21k_740m_512", _LARGE),
    },
    (
        Format(
            "MambaVision (NVlabs/MambaVision)",
            having("patch_embed.conv_down.0.weight", "levels.0.blocks.0.conv1.weight"),
            configurations=(
                TRANSFORMERS_CONFIG,
                training_options(r"mamba_vision_(T2?|S|B|L[23]?)(_\d+)?(_21k)?", arguments),
            ),
        ),
    ),
    backbone_key,
    untraced=untraced,
    counted={
        "mambavision_t": Counted(31_794_248, 4.57),
        "mambavision_t2": Counted(35_104_008, 5.24),
        "mambavision_s": Counted(50_140_584, 7.59),
        "mambavision_b": Counted(97_685_288, 15.17),
        "mambavision_b_21k": Counted(97_685_288, 15.17),
        "mambavision_l": Counted(227_961_048, 35.18),
        "mambavision_l_21k": Counted(227_961_048, 35.18),
        "mambavision_l2": Counted(241_554_824, 37.90),
        "mambavision_l2_512_21k": Counted(241_554_824, 206.31),
        "mambavision_l3": Counted(739_570_472, 115.81),
        "mambavision_l3_256_21k": Counted(739_570_472, 123.61),
        "mambavision_l3_512_21k": Counted(739_570_472, 511.53),
    },
)

"""Names in the checkpoints of `yuweihao/MambaOut` (the file is the state dict), and in timm's."""

from mambarium.backbones.published.configuration import Expected, fixed
from mambarium.backbones.published.family import (
    IMAGENET,
    Counted,
    Evaluation,
    Family,
    Format,
    Published,
    PublishedWeights,
    having,
    renaming,
)
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.backbones.vision.mambaout.mambaout_backbone import VARIANTS, GatedCNNBlock, MambaOut
from mambarium.errors import InputError

_FROM_TIMM = {
    r"^stem\.": "downsample_layers.0.",
    r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
    r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
    r"^head\.norm\.": "norm.",
    r"^head\.pre_logits\.fc\.": "head.fc1.",
    r"^head\.pre_logits\.norm\.": "head.norm.",
    r"^head\.fc\.": "head.fc2.",
}


def backbone_key(name: str) -> str:
    """Return the published key of a parameter of our `MambaOut`; InputError for the SSM's, which have none."""
    if ".ssm." in name:
        raise InputError("MambaOut with an SSM has no published weights; set ssm to false")
    return name.replace("blocks.", "stages.", 1) if name.startswith("blocks.") else name


def timm_arguments(backbone: MambaOut) -> dict[str, Expected]:
    """Return what the arguments of timm's `MambaOut` are for a backbone."""
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
        **fixed(stem_mid_norm=True, ls_init_value=None, downsample="conv", head_fn="default"),
        "act_layer": Expected(("gelu", None)),
        "norm_layer": Expected(("layernorm", None)),
    }


_MODELS = r"mambaout_(femto|kobe|tiny|small|base)"


def _published(size: str, top1: float, gmacs: float) -> Published:
    address = f"https://github.com/yuweihao/MambaOut/releases/download/model/mambaout_{size}.pth"
    weights = PublishedWeights(address, "Apache-2.0", Evaluation(crop=1.0))
    return Published(top1, IMAGENET, 224, gmacs, "yuweihao/MambaOut", weights)


FAMILY = Family(
    MambaOut,
    VARIANTS,
    {
        "mambaout_femto": _published("femto", 78.9, 1.2),
        "mambaout_kobe": _published("kobe", 80.0, 1.5),
        "mambaout_tiny": _published("tiny", 82.7, 4.5),
        "mambaout_small": _published("small", 84.1, 9.0),
        "mambaout_base": _published("base", 84.2, 15.8),
    },
    (
        Format(
            "MambaOut (yuweihao/MambaOut)",
            having("downsample_layers.0.conv1.weight", "stages.0.0.fc1.weight"),
            configurations=(training_options(_MODELS),),
        ),
        Format(
            "MambaOut (timm)",
            having("stem.conv1.weight", "stages.0.blocks.0.fc1.weight"),
            renaming(_FROM_TIMM),
            (timm_config(_MODELS, "avg", timm_arguments), training_options(_MODELS, timm_arguments)),
        ),
    ),
    backbone_key,
    counted={
        "mambaout_femto": Counted(7_304_536, 1.15),
        "mambaout_kobe": Counted(9_141_208, 1.51),
        "mambaout_tiny": Counted(26_545_096, 4.47),
        "mambaout_small": Counted(48_488_072, 8.94),
        "mambaout_base": Counted(84_813_092, 15.79),
    },
)

"""Names in LocalVim's checkpoints of `hunto/LocalMamba` (the entry `state_dict` of the file).

The files also hold `rope.freqs_cos` and `rope.freqs_sin`, which our `LocalVim` computes.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.family import (
    IMAGENET,
    Counted,
    Family,
    Format,
    Published,
    PublishedWeights,
    Weights,
    having,
)
from mambarium.backbones.vision.local_mamba.local_vim import VARIANTS, LocalMixer, LocalVim


def backbone_key(name: str) -> str:
    """Return the published key of a parameter of our `LocalVim`."""
    name = re.sub(r"^patch_embed\.", "patch_embed.proj.", name).replace(".mixer.gate.", ".mixer.attn.")
    # There the number of the route stands behind the part's name: "x_proj_2.weight", "A_log_2".
    return re.sub(r"\.ssms\.(\d+)\.(\w+)", r".\2_\1", name)


def without_rotations(weights: Mapping[str, Tensor]) -> Weights:
    """Return a published state dict without the angles of the rotary positions."""
    return {key: value for key, value in weights.items() if not key.startswith("rope.")}


def untraced(backbone: LocalVim) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    routes = tuple(module.routes for module in backbone.modules() if isinstance(module, LocalMixer))
    return {"routes": Expected((routes,), "routes")}


_RELEASE = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0/"


def _published(top1: float, gmacs: float, file: str | None) -> Published:
    weights = PublishedWeights(_RELEASE + file, "Apache-2.0") if file else None
    return Published(top1, IMAGENET, 224, gmacs, "hunto/LocalMamba", weights)


FAMILY = Family(
    LocalVim,
    VARIANTS,
    {
        "local_vim_tiny": _published(76.2, 1.5, "local_vim_tiny.ckpt"),
        "local_vim_tiny_class_token": _published(77.8, 1.5, "local_vim_tiny_middle_cls_token.ckpt"),
        "local_vim_small": _published(81.1, 4.8, None),  # its link there leads to LocalVMamba's
    },
    (
        Format(
            "LocalVim (hunto/LocalMamba)",
            having("patch_embed.proj.weight", "layers.0.mixer.x_proj_0.weight"),
            without_rotations,
        ),
    ),
    backbone_key,
    untraced=untraced,
    counted={
        "local_vim_tiny": Counted(7_994_152, 1.70),
        "local_vim_tiny_class_token": Counted(7_994_536, 1.71),
        "local_vim_small": Counted(27_783_784, 5.43),
    },
)

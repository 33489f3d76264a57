"""Names in LocalVim's checkpoints of `hunto/LocalMamba` (the entry `state_dict` of the file).

The files also hold `rope.freqs_cos` and `rope.freqs_sin`, which our `LocalVim` computes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format, Weights
from mambarium.backbones.vision.local_mamba.local_vim import VARIANTS, LocalMixer, LocalVim


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `LocalVim`."""
    name = re.sub(r"^patch_embed\.", "patch_embed.proj.", name).replace(".mixer.gate.", ".mixer.attn.")
    # There the number of the route stands behind the part's name: "x_proj_2.weight", "A_log_2".
    return re.sub(r"\.ssms\.(\d+)\.(\w+)", r".\2_\1", name)


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VimClassifier`."""
    return name


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VisionMamba` with local scans."""
    return "patch_embed.proj.weight" in keys and "layers.0.mixer.x_proj_0.weight" in keys


def without_rotations(weights: Mapping[str, Tensor]) -> Weights:
    """A published state dict without the angles of the rotary positions."""
    return {key: value for key, value in weights.items() if not key.startswith("rope.")}


def untraced(backbone: LocalVim) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    routes = tuple(module.routes for module in backbone.modules() if isinstance(module, LocalMixer))
    return {"routes": Expected((routes,), "routes")}


FORMAT = Format(
    "LocalVim (hunto/LocalMamba)",
    LocalVim,
    VARIANTS,
    recognises,
    without_rotations,
    backbone_key,
    classifier_key,
    untraced=untraced,
)

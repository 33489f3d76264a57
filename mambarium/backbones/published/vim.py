"""Names in the checkpoints of `hustvl/Vim` (the entry `model` of the file)."""

from __future__ import annotations

from collections.abc import Collection

from mambarium.backbones.published.format import Format
from mambarium.backbones.vim import VARIANTS, Vim

_BACKWARD_SCAN = {"A_log": "A_b_log", "D": "D_b"}


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `Vim`."""
    if ".backward_ssm." in name:
        mixer, parameter = name.split(".backward_ssm.")
        if parameter in _BACKWARD_SCAN:
            return f"{mixer}.{_BACKWARD_SCAN[parameter]}"
        layer, kind = parameter.split(".")
        return f"{mixer}.{layer}_b.{kind}"
    return name.replace(".forward_ssm.", ".")


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VimClassifier`."""
    return name


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VisionMamba` with blocks of type "v2"."""
    return "patch_embed.proj.weight" in keys and "layers.0.mixer.x_proj_b.weight" in keys


FORMAT = Format("Vim (hustvl/Vim)", Vim, VARIANTS, recognises, dict, backbone_key, classifier_key)

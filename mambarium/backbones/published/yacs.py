"""The configurations of Swin's training script and of those made from it, in the files' entry "config"."""

from collections.abc import Callable, Mapping
from typing import Any

from mambarium.backbones.published.configuration import ConfigurationFormat, Expected

_TRAINING = ("BASE", "DATA.*", "TRAIN.*", "AUG.*", "TEST.*", "AMP_*", "ENABLE_AMP", "*_FREQ", "SEED", "*_MODE")
_RECORDS = ("OUTPUT", "TAG", "LOCAL_RANK", "MODEL.NAME", "MODEL.PRETRAINED", "MODEL.RESUME", "MODEL.MMCKPT")
_HARMLESS = (*_TRAINING, *_RECORDS, "MODEL.NUM_CLASSES", "MODEL.DROP*", "MODEL.LABEL_SMOOTHING", "FUSED_*")


def yacs_config(
    model_type: str,
    section: str,
    arguments: Callable[[Any], Mapping[str, Expected]],
    harmless: tuple[str, ...] = (),
) -> ConfigurationFormat:
    """Return a configuration of one `MODEL.TYPE` (a regular expression), whose settings are a section of `MODEL`.

    `harmless` are those of them that change nothing of what given weights compute, and sections of other types.
    """
    inside = f"MODEL.{section}."
    return ConfigurationFormat(
        "config",
        {"MODEL.TYPE": model_type},
        lambda backbone: {inside + name: value for name, value in arguments(backbone).items()},
        harmless=(*_HARMLESS, *harmless),
        settings=(f"{inside}*",),
    )

"""Writing weights in a family's official format."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.family import Weights
from mambarium.backbones.published.known import family_of
from mambarium.backbones.variants import FAMILIES
from mambarium.errors import InputError


def official_weights(backbone: Backbone, head: Mapping[str, Tensor]) -> Weights:
    """Return a state dict with the family's official keys; InputError if it has no published format."""
    family = family_of(backbone)
    if family is None or not family.formats:
        known = ", ".join(one.backbone.__name__ for one in FAMILIES if one.formats)
        raise InputError(f"{type(backbone).__name__} has no published format; those that have one are {known}")
    weights = {family.backbone_key(name): value for name, value in backbone.state_dict().items()}
    return family.exported(weights | {family.head_key(name): value for name, value in head.items()})


def write_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a new safetensors file, whole or not at all; of tensors that share memory the first one only."""
    from safetensors.torch import save_file

    if path.exists():
        raise InputError(f"{path} exists; give another path, or remove it")
    first_names: dict[int, str] = {}
    for key, value in weights.items():
        first_names.setdefault(value.data_ptr(), key)
    tensors = {key: weights[key].detach().cpu().contiguous() for key in first_names.values()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"format": "pt"})
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)

"""Which family and format a state dict is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.family import Family, Format, Weights
from mambarium.backbones.variants import FAMILIES

TITLES = tuple(known.title for family in FAMILIES for known in family.formats)

WRAPPERS = ("module.", "model.", "encoder.", "backbone.", "net.", "network.", "student.", "teacher.")
"""What stands before all names of a model inside another one: parallel training, transformers, detectors."""

INSIDE_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
"""What compilation and sharding put before the names of any part of a model."""

COUNTERS = ("total_ops", "total_params", "n_averaged")
"""Last names of tensors that count something, of thop and of averaged weights."""


class Recognised(NamedTuple):
    """A published state dict.

    Attributes:
        family: The family.
        format: Its format.
        weights: With the names of the family's official code.
        outside: Keys that stood outside the model, as those of a detector around it.
    """

    family: Family
    format: Format
    weights: Weights
    outside: list[str]


def recognise(weights: Mapping[str, Tensor]) -> Recognised | None:
    """The format of a state dict, None if it is of none; prefixes of wrappers are taken off."""
    for family in FAMILIES:
        for known in family.formats:
            if known.recognises(weights):
                return Recognised(family, known, known.to_official(weights), [])
    for prefix in WRAPPERS:
        inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        found = recognise(inside) if inside else None
        if found is not None:
            others = [key for key in weights if not key.startswith(prefix)]
            return found._replace(outside=[*others, *(prefix + key for key in found.outside)])
    return None


def without_wrappers(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict without counters, and without what compilation and sharding put into its names."""
    found = {}
    for key, value in weights.items():
        if key.rpartition(".")[2] in COUNTERS:
            continue
        for wrapper in INSIDE_WRAPPERS:
            key = key.replace(wrapper, "")
        found[key] = value
    return found


def family_of(backbone: Backbone) -> Family | None:
    """The family of a backbone, None for a class of the user's."""
    return next((family for family in FAMILIES if type(backbone) is family.backbone), None)


def fitting_variants(recognised: Recognised) -> list[str]:
    """Published variants whose parameters have exactly the names and shapes of a published state dict."""
    family = recognised.family
    stored = {key: value.shape for key, value in recognised.weights.items()}
    fitting = []
    for name, build in family.variants.items():
        with torch.device("meta"):
            backbone = build()
        expected = {family.backbone_key(part): value.shape for part, value in backbone.state_dict().items()}
        needed = {family.backbone_key(part): value.shape for part, value in backbone.named_parameters()}
        if needed.items() <= stored.items() and not foreign_parts(expected, stored):
            fitting.append(name)
    return fitting


def foreign_parts(expected: Collection[str], stored: Collection[str]) -> list[str]:
    """Stored keys of numbered parts that a model has too, such as layers, but which the model lacks."""
    containers = {container(key) for key in expected}
    return [key for key in stored if key not in expected and container(key) in containers]


def container(key: str) -> str:
    """What holds the numbered part that a key belongs to, "layers" of "layers.3.norm.weight"; else the key itself."""
    parts = key.split(".")
    return ".".join(parts[: next((index for index, part in enumerate(parts) if part.isdigit()), len(parts))])

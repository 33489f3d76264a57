"""Which family and format a state dict is of."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.family import Family, Format, PublishedWeights, Weights
from mambarium.backbones.variants import FAMILIES
from mambarium.errors import InputError

TITLES = tuple(known.title for family in FAMILIES for known in family.formats)

WRAPPERS = ("module.", "model.", "encoder.", "backbone.", "net.", "network.", "student.", "teacher.")
"""What stands before all names of a model inside another one: parallel training, transformers, detectors."""

INSIDE_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
"""What compilation and sharding put before the names of any part of a model."""

COUNTERS = ("total_ops", "total_params", "n_averaged")
"""Last names of tensors that count something, of thop and of averaged weights."""


class Recognised(NamedTuple):
    """A published state dict."""

    family: Family
    format: Format
    weights: Weights
    outside: list[str]


def recognise(weights: Mapping[str, Tensor]) -> Recognised | None:
    """Return the format of a state dict, None if it is of none; prefixes of wrappers are taken off."""
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
    """Return a state dict without counters, and without what compilation and sharding put into its names."""
    found = {}
    for key, value in weights.items():
        if key.rpartition(".")[2] in COUNTERS:
            continue
        for wrapper in INSIDE_WRAPPERS:
            key = key.replace(wrapper, "")
        found[key] = value
    return found


def family_of(backbone: Backbone) -> Family | None:
    """Return the family of a backbone, None for a class of the user's."""
    return next((family for family in FAMILIES if type(backbone) is family.backbone), None)


def fitting_variants(recognised: Recognised) -> list[str]:
    """Return published variants whose parameters have exactly the names and shapes of a published state dict."""
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


def weights_of_variant(backbone: Backbone) -> PublishedWeights:
    """Return the published weights of the variant that a backbone is, image and window sizes apart.

    InputError if it is none, none are published of it, or those of several fit equally well.
    """
    family = family_of(backbone)
    differences: dict[str, int] = {}
    for name, build in family.variants.items() if family else ():
        with torch.device("meta"):
            count = _differences(backbone, build(), family.untraced) if family else None
        if count is not None:
            differences[name] = count
    nearest = [name for name, count in differences.items() if count == min(differences.values())]
    published = [family.published[name].weights for name in nearest if family and name in family.published]
    found = [weights for weights in published if weights is not None]
    if len(found) == 1:
        return found[0]
    class_name = type(backbone).__name__
    if found:
        addresses = " or ".join(weights.address for weights in found)
        raise InputError(
            f"pretrained is official: this {class_name} is {' and '.join(nearest)} alike; give {addresses}"
        )
    what = (
        f"no weights of {' and '.join(nearest)} are published" if nearest else f"this {class_name} is no published one"
    )
    raise InputError(
        f"pretrained is official: {what}; give a file, a URL or a name on the hub, or null for fresh weights"
    )


def _differences(ours: Backbone, published: Backbone, untraced: Callable[[Any], Mapping[str, Expected]]) -> int | None:
    """In how much a backbone differs from a published one whose weights it can take; None if it can't."""
    if getattr(ours, "feature_info", None) != getattr(published, "feature_info", None):
        return None
    state, stored = ours.state_dict(), published.state_dict()
    if state.keys() != stored.keys():
        return None
    resized = 0
    for name, value in stored.items():
        if value.shape != state[name].shape:
            fitted = ours.resized(name, value)
            if fitted is None or fitted.shape != state[name].shape:
                return None
            resized = 1
    theirs = untraced(published)
    other = [wanted for key, wanted in untraced(ours).items() if wanted.values != theirs[key].values]
    return resized + len(other) if all(wanted.free for wanted in other) else None


def foreign_parts(expected: Collection[str], stored: Collection[str]) -> list[str]:
    """Return stored keys of numbered parts that a model has too, such as layers, but which the model lacks."""
    containers = {container(key) for key in expected}
    return [key for key in stored if key not in expected and container(key) in containers]


def container(key: str) -> str:
    """Return what holds the numbered part that a key is of, "layers" of "layers.3.norm.weight"; else the key."""
    parts = key.split(".")
    return ".".join(parts[: next((index for index, part in enumerate(parts) if part.isdigit()), len(parts))])

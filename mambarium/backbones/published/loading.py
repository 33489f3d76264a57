"""Loading published weights, or those of a checkpoint of ours, into a backbone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mambarium.backbones.adapters import SequenceOnImages
from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.configuration import Comparison, compare, compare_untraced
from mambarium.backbones.published.family import Weights
from mambarium.backbones.published.known import Recognised, fitting_variants, foreign_parts, weights_of_variant
from mambarium.backbones.published.reading import Pretrained, read_pretrained
from mambarium.backbones.published.report import LoadReport
from mambarium.backbones.published.unreadable import refuse_defects
from mambarium.errors import InputError

OFFICIAL = "official"
"""As a source, the published weights of the variant that the backbone is."""


class Assignment(NamedTuple):
    """What of a module's state finds a value.

    Attributes:
        values: New values by the module's names.
        keys: The keys that they come from.
        reshaped: Those that were brought to another shape.
        absent: Names without a value.
        misfits: Names whose value has another shape, with both.
        comparison: Of what came with the weights with the module; None for a head.
    """

    values: Weights
    keys: set[str]
    reshaped: list[str]
    absent: list[str]
    misfits: list[str]
    comparison: Comparison | None = None


class Resized(NamedTuple):
    """A stored tensor brought to another shape, and how that was done where its shapes don't tell."""

    value: Tensor
    how: str = ""


def load_pretrained(backbone: Backbone, source: str | Path, *, ema: bool | None = None) -> LoadReport:
    """Load published weights, or the backbone of a checkpoint of ours, into a backbone.

    Recognised are the formats of Mamba (original and transformers), Vim, VMamba (both generations), MambaVision,
    MambaOut (official and timm), LocalVim, LocalVMamba, and of DeiT, Swin and ConvNeXt (official, timm and
    torchvision), bare or in the files that training wrote. Positions of another image size are interpolated; everything
    else must be there, in its shape. Either all is loaded or nothing. `SequenceOnImages` also takes weights of the
    sequence backbone alone: patches and positions are then left as they were, and reported. A configuration that comes
    with the weights (`config.json` beside them, or the training script's in their file) must say what the backbone has.

    Args:
        backbone: Where the weights go.
        source: A file of `torch.save` or safetensors, a folder as transformers writes it, a URL, a name on the Hugging
            Face hub (`owner/name` or `owner/name:file`), or "official": the published weights of the variant that the
            backbone is. Nothing in a file is ever run.
        ema: Whether to take the average over training where the file has one beside the plain weights; None takes what
            the official code evaluates.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: If the source can't be read, is of no known format, or is of another model, with the published
            variant that fits; if a configuration says that the weights compute something else than the backbone; or if
            they hold NaN, other types or quantised values.
    """
    pretrained = read_weights(backbone, source, ema)
    found = fit_backbone(backbone, pretrained)
    backbone.load_state_dict(found.values, strict=False)
    return report(pretrained, found, None)


def read_weights(backbone: Backbone, source: str | Path, ema: bool | None) -> Pretrained:
    """Read what a source of weights for a backbone names; arguments and errors as for `load_pretrained`."""
    if source != OFFICIAL:
        return read_pretrained(source, ema)
    published = weights_of_variant(backbone.backbone if isinstance(backbone, SequenceOnImages) else backbone)
    pretrained = read_pretrained(published.address, ema)
    found, wanted = pretrained.checkpoint.sha256, published.sha256 or ""
    if not found.startswith(wanted):
        raise InputError(
            f"{published.address}: its SHA-256 is {found}, published {wanted}; remove the damaged download"
        )
    return pretrained._replace(published=published)


def fit_backbone(backbone: Backbone, pretrained: Pretrained) -> Assignment:
    """Values for all parameters of a backbone, or of the one in `SequenceOnImages`; InputError for another model's."""
    if isinstance(backbone, SequenceOnImages) and not _are_on_images(pretrained):
        return _within(fit_backbone(backbone.backbone, pretrained), backbone)
    recognised = pretrained.recognised
    weights = pretrained.weights if recognised is None else recognised.weights
    if recognised is not None and type(backbone) is not recognised.family.backbone:
        raise InputError(
            f"{pretrained.checkpoint.source} holds weights of {recognised.format.title}, the backbone is "
            f"{type(backbone).__name__}: {_variant_that_fits(recognised)}"
        )
    state = backbone.state_dict()
    keys = {name: pretrained.backbone_key(name) for name in state}
    found = assign(state, keys, weights, lambda *stored: _plainly(backbone.resized(*stored)), pretrained)
    lacking = [name for name in found.absent if torch.is_floating_point(state[name])]
    foreign = foreign_parts(list(keys.values()), weights)
    if not (found.misfits or lacking or foreign):
        return found._replace(comparison=_compare(pretrained, backbone))
    if found.misfits:
        problem = found.misfits[0]
    elif lacking:
        problem = f"the file lacks {pretrained.backbone_key(lacking[0])}"
    else:
        problem = f"the file also has {foreign[0]}"
    raise InputError(
        f"{pretrained.checkpoint.source} ({pretrained.title}) is of another {type(backbone).__name__} than this one "
        f"({problem}): {_own_backbone(pretrained) if recognised is None else _variant_that_fits(recognised)}"
    )


def _plainly(value: Tensor | None) -> Resized | None:
    return None if value is None else Resized(value)


def _compare(pretrained: Pretrained, backbone: Backbone) -> Comparison:
    """Return what came with published weights, compared with a backbone that their tensors fit."""
    found = Comparison()
    for stored, form in pretrained.configurations:
        compare(stored, form, backbone, found)
    recognised = pretrained.recognised
    if recognised is not None:
        family, published = recognised.family, {}
        for name in fitting_variants(recognised) if family.untraced(backbone) else ():
            with torch.device("meta"):
                published[name] = family.untraced(family.variants[name]())
        compare_untraced(pretrained.checkpoint.source, published, family.untraced(backbone), backbone, found)
    return found


def _are_on_images(pretrained: Pretrained) -> bool:
    """Whether weights are of `SequenceOnImages`, rather than of a sequence backbone alone."""
    return pretrained.recognised is None and any(key.startswith("backbone.patch_embed.") for key in pretrained.weights)


def _within(found: Assignment, backbone: SequenceOnImages) -> Assignment:
    """Values for a sequence backbone as values for what it stands in."""
    prefix = "backbone."
    return Assignment(
        {prefix + name: value for name, value in found.values.items()},
        found.keys,
        [prefix + change for change in found.reshaped],
        [name for name in backbone.state_dict() if name.removeprefix(prefix) not in found.values],
        [],
        found.comparison,
    )


def assign(
    state: Mapping[str, Tensor],
    keys: Mapping[str, str],
    weights: Mapping[str, Tensor],
    resized: Callable[[str, Tensor], Resized | None],
    pretrained: Pretrained,
) -> Assignment:
    """Find values for a module's state; InputError if one is none that a network could have."""
    found = Assignment({}, set(), [], [], [])
    for name, key in keys.items():
        if key not in weights:
            found.absent.append(name)
            continue
        value, shape = weights[key], state[name].shape
        if value.shape != shape:
            change = f"{name} {tuple(value.shape)} -> {tuple(shape)}"
            fitted = resized(name, value)
            if fitted is None or fitted.value.shape != shape:
                found.misfits.append(change)
                continue
            found.reshaped.append(f"{change}: {fitted.how}" if fitted.how else change)
            value = fitted.value
        refuse_defects(pretrained.checkpoint.source, key, value, state[name])
        found.values[name] = value
        found.keys.add(key)
    return found


def report(pretrained: Pretrained, backbone: Assignment, head: Assignment | None) -> LoadReport:
    """Return what was loaded."""
    recognised = pretrained.recognised
    weights, outside = (pretrained.weights, []) if recognised is None else (recognised.weights, recognised.outside)
    used = backbone.keys | (head.keys if head else set())
    comparison = backbone.comparison or Comparison()
    counts = [f"{title}: {count} fields as here" for title, count in comparison.matching.items()]
    published = pretrained.published
    notes = [f"published by their authors under {published.licence}"] if published else []
    if published and published.evaluation:
        notes.append(f"their authors evaluate at {published.evaluation}")
    nothing = f"none ({pretrained.checkpoint.no_config})" if pretrained.checkpoint.no_config else "none"
    return LoadReport(
        source=pretrained.checkpoint.source,
        sha256=pretrained.checkpoint.sha256,
        format=pretrained.title,
        weights=pretrained.description,
        matched=[*backbone.values, *(head.values if head else ())],
        missing=backbone.absent,
        unexpected=[*(key for key in weights if key not in used), *outside],
        reshaped=[*backbone.reshaped, *(head.reshaped if head else ())],
        fresh=[*head.misfits, *(f"{name} (not in the file)" for name in head.absent)] if head else [],
        settings="; ".join(counts) or nothing,
        unread=comparison.unread,
        notes=[*comparison.notes, *notes],
    )


def _variant_that_fits(recognised: Recognised) -> str:
    fitting = fitting_variants(recognised)
    return f"it is of the variant {' or '.join(fitting)}" if fitting else "it fits none of the published variants"


def _own_backbone(pretrained: Pretrained) -> str:
    """Return the backbone that a checkpoint of ours was trained with, where its configuration says so."""
    backbone = pretrained.checkpoint.content.get("hyper_parameters", {}).get("backbone")
    if not isinstance(backbone, Mapping) or "class_path" not in backbone:
        return "take the backbone that it was trained with"
    arguments = ", ".join(f"{key}={value}" for key, value in dict(backbone.get("init_args") or {}).items())
    return f"take the backbone that it was trained with, {backbone['class_path'].split('.')[-1]}({arguments})"

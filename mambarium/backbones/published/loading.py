"""Loading published weights, or those of a checkpoint of ours, into a backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mambarium.backbones.adapters import SequenceOnImages
from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.format import Weights
from mambarium.backbones.published.known import FORMATS, Recognised, fitting_variants, foreign_parts, recognise
from mambarium.backbones.published.report import LoadReport
from mambarium.backbones.published.source import StoredCheckpoint, read_checkpoint
from mambarium.errors import InputError

PLAIN_ENTRIES = ("model", "state_dict", "current_model_state")
AVERAGE_ENTRIES = ("model_ema", "state_dict_ema")
"""Names under which files hold weights, and their average over training."""


class Pretrained(NamedTuple):
    """Weights to load.

    Attributes:
        checkpoint: Where they come from.
        description: Which of the file's weights they are.
        weights: The tensors.
        recognised: Their published format; None for a checkpoint of one of our tasks.
    """

    checkpoint: StoredCheckpoint
    description: str
    weights: Weights
    recognised: Recognised | None

    @property
    def title(self) -> str:
        """The format's title."""
        return "a checkpoint of this package" if self.recognised is None else self.recognised.format.title

    def backbone_key(self, name: str) -> str:
        """The key of a parameter or buffer of our backbone."""
        return f"backbone.{name}" if self.recognised is None else self.recognised.format.backbone_key(name)


class Assignment(NamedTuple):
    """What of a module's state finds a value.

    Attributes:
        values: New values by the module's names.
        keys: The keys that they come from.
        reshaped: Those that were brought to another shape.
        absent: Names without a value.
        misfits: Names whose value has another shape, with both.
    """

    values: Weights
    keys: set[str]
    reshaped: list[str]
    absent: list[str]
    misfits: list[str]


def load_pretrained(backbone: Backbone, source: str | Path, *, ema: bool | None = None) -> LoadReport:
    """Load published weights, or the backbone of a checkpoint of ours, into a backbone.

    Recognised are the formats of Mamba (original and transformers), Vim, VMamba (both generations), MambaVision,
    MambaOut (official and timm), LocalVim, LocalVMamba, and of DeiT, Swin and ConvNeXt (official, timm and
    torchvision), bare or in the files that training wrote. Positions of another image size are interpolated; everything
    else must be there, in its shape. Either all is loaded or nothing. `SequenceOnImages` also takes weights of the
    sequence backbone alone: patches and positions are then left as they were, and reported.

    Args:
        backbone: Where the weights go.
        source: A file of `torch.save` or safetensors, a folder as transformers writes it, or a name on the Hugging Face
            hub: `owner/name` or `owner/name:file`. Nothing in a file is ever run.
        ema: Whether to take the average over training where the file has one beside the plain weights; None takes what
            the official code evaluates.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: If the source can't be read, is of no known format, or is of another model; the message names the
            published variant that fits.
    """
    pretrained = read_pretrained(source, ema)
    found = fit_backbone(backbone, pretrained)
    backbone.load_state_dict(found.values, strict=False)
    return report(pretrained, found, None)


def read_pretrained(source: str | Path, ema: bool | None = None) -> Pretrained:
    """Read weights and recognise their format; arguments and errors as for `load_pretrained`."""
    checkpoint = read_checkpoint(source)
    plain, average = _entries(checkpoint.content)
    if not plain and not average:
        raise InputError(f"{source} is no checkpoint: it holds no named tensors")
    any_weights = next(iter((plain or average).values()))
    ours = _is_ours(checkpoint.content, any_weights)
    recognised = None if ours else recognise(any_weights)
    if recognised is None and not ours:
        titles = ", ".join(known.title for known in FORMATS)
        raise InputError(
            f"{source} is of no format known here (it begins with {', '.join(list(any_weights)[:3])}); known are "
            f"{titles}, and checkpoints of this package"
        )
    if ema is not None and not (average if ema else plain):
        raise InputError(f"{source} has no {'averaged' if ema else 'plain'} weights: leave ema away")
    preferred = recognised is None or recognised.format.evaluates_average
    use_average = bool(average) and (not plain or (preferred if ema is None else ema))
    entry, weights = next(iter((average if use_average else plain).items()))
    other = next(iter(plain if use_average else average), None)
    description = "weights averaged over training" if use_average else "plain weights"
    if entry:
        description += f" (its entry {entry!r}" + (f"; {other!r} is there too)" if other else ")")
    return Pretrained(checkpoint, description, weights, recognised and recognise(weights))


def fit_backbone(backbone: Backbone, pretrained: Pretrained) -> Assignment:
    """Values for all parameters of a backbone, or of the one within `SequenceOnImages`.

    Raises:
        InputError: If they are of another model.
    """
    if isinstance(backbone, SequenceOnImages) and not _are_on_images(pretrained):
        return _within(fit_backbone(backbone.backbone, pretrained), backbone)
    recognised = pretrained.recognised
    weights = pretrained.weights if recognised is None else recognised.weights
    if recognised is not None and type(backbone) is not recognised.format.family:
        raise InputError(
            f"{pretrained.checkpoint.source} holds weights of {recognised.format.title}, the backbone is "
            f"{type(backbone).__name__}: {_variant_that_fits(recognised)}"
        )
    state = backbone.state_dict()
    found = assign(state, {name: pretrained.backbone_key(name) for name in state}, weights, backbone.resized)
    lacking = [name for name in found.absent if torch.is_floating_point(state[name])]
    foreign = foreign_parts([pretrained.backbone_key(name) for name in state], weights)
    if not (found.misfits or lacking or foreign):
        return found
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
    )


def assign(
    state: Mapping[str, Tensor],
    keys: Mapping[str, str],
    weights: Mapping[str, Tensor],
    resized: Callable[[str, Tensor], Tensor | None],
) -> Assignment:
    """Find values for a module's state.

    Args:
        state: Tensors of the module by name.
        keys: For each name the key under which its value is stored.
        weights: Stored tensors by key.
        resized: Brings a stored tensor to the shape of the one of that name, or says by None that it can't.
    """
    found = Assignment({}, set(), [], [], [])
    for name, key in keys.items():
        if key not in weights:
            found.absent.append(name)
            continue
        value, shape = weights[key], state[name].shape
        if value.shape != shape:
            change = f"{name} {tuple(value.shape)} -> {tuple(shape)}"
            fitted = resized(name, value)
            if fitted is None or fitted.shape != shape:
                found.misfits.append(change)
                continue
            found.reshaped.append(change)
            value = fitted
        found.values[name] = value
        found.keys.add(key)
    return found


def report(pretrained: Pretrained, backbone: Assignment, head: Assignment | None) -> LoadReport:
    """What was loaded."""
    recognised = pretrained.recognised
    weights, outside = (pretrained.weights, []) if recognised is None else (recognised.weights, recognised.outside)
    used = backbone.keys | (head.keys if head else set())
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
    )


def _entries(content: Mapping[str, Any]) -> tuple[dict[str, Weights], dict[str, Weights]]:
    """The weights of a file by its entry, "" for a bare state dict: the plain ones, and the averaged ones."""
    # Lightning's weight averaging puts the average in the place of the plain weights, which it moves.
    averages = ("state_dict",) if "averaging_state" in content else AVERAGE_ENTRIES
    found = {name: _tensors(content.get(name)) for name in (*PLAIN_ENTRIES, *AVERAGE_ENTRIES)}
    plain = {name: weights for name, weights in found.items() if weights and name not in averages}
    average = {name: weights for name, weights in found.items() if weights and name in averages}
    if not plain and not average and (bare := _tensors(content)):
        return {"": bare}, {}
    return plain, average


def _tensors(value: Any) -> Weights:
    """The tensors of a dict, empty for anything else."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: tensor for key, tensor in items if isinstance(key, str) and isinstance(tensor, Tensor)}


def _is_ours(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Whether this is a Lightning checkpoint of one of our tasks."""
    parts = {key.split(".")[0] for key in weights}
    return "pytorch-lightning_version" in content and {"backbone", "objective"} <= parts


def _variant_that_fits(recognised: Recognised) -> str:
    fitting = fitting_variants(recognised)
    return f"it is of the variant {' or '.join(fitting)}" if fitting else "it fits none of the published variants"


def _own_backbone(pretrained: Pretrained) -> str:
    """The backbone that a checkpoint of ours was trained with, where its configuration says so."""
    backbone = pretrained.checkpoint.content.get("hyper_parameters", {}).get("backbone")
    if not isinstance(backbone, Mapping) or "class_path" not in backbone:
        return "take the backbone that it was trained with"
    arguments = ", ".join(f"{key}={value}" for key, value in dict(backbone.get("init_args") or {}).items())
    return f"take the backbone that it was trained with, {backbone['class_path'].split('.')[-1]}({arguments})"

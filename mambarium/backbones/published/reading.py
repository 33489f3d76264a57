"""Which of a file's tensors are weights, of which format, and what came with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mambarium.backbones.published.configuration import (
    ConfigurationFormat,
    StoredConfiguration,
    entry_configurations,
    format_of,
    model_named,
)
from mambarium.backbones.published.family import PublishedWeights, Weights
from mambarium.backbones.published.known import TITLES, Recognised, recognise, without_wrappers
from mambarium.backbones.published.source import StoredCheckpoint, read_checkpoint
from mambarium.backbones.published.unreadable import refuse_unreadable, what_is_there
from mambarium.errors import InputError

PLAIN_ENTRIES = (
    "model",
    "state_dict",
    "current_model_state",
    "model_state_dict",
    "params",
    "net",
    "network",
    "module",
    "student",
)
AVERAGE_ENTRIES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "params_ema", "ema", "teacher")
"""Names under which files hold weights, and their average over training."""


class Pretrained(NamedTuple):
    """Weights to load.

    Attributes:
        checkpoint: Where they come from.
        description: Which of the file's weights they are.
        weights: The tensors.
        recognised: Their published format; None for a checkpoint of one of our tasks.
        configurations: What came with them, each with its format, None for one that nothing is known of.
        published: What is known of them where they were asked for as the official ones.
    """

    checkpoint: StoredCheckpoint
    description: str
    weights: Weights
    recognised: Recognised | None
    configurations: list[tuple[StoredConfiguration, ConfigurationFormat | None]]
    published: PublishedWeights | None = None

    @property
    def title(self) -> str:
        """The format's title."""
        return "a checkpoint of this package" if self.recognised is None else self.recognised.format.title

    def backbone_key(self, name: str) -> str:
        """Return the key of a parameter or buffer of our backbone."""
        return f"backbone.{name}" if self.recognised is None else self.recognised.family.backbone_key(name)


def read_pretrained(source: str | Path, ema: bool | None = None) -> Pretrained:
    """Read weights and recognise their format; arguments and errors as for `load_pretrained`."""
    checkpoint = read_checkpoint(source)
    plain, average = _entries(checkpoint.content)
    if not plain and not average:
        refuse_unreadable(str(source), checkpoint.content, {})
        entries = ", ".join(map(str, list(checkpoint.content)[:6]))
        raise InputError(
            f"{source} is no checkpoint: it holds no named tensors" + (f" (but {entries})" if entries else "")
        )
    any_weights = next(iter((plain or average).values()))
    refuse_unreadable(str(source), checkpoint.content, any_weights)
    ours = _is_ours(checkpoint.content, any_weights)
    recognised = None if ours else recognise(any_weights)
    if recognised is None and not ours:
        raise InputError(
            f"{source} is of no format known here ({what_is_there(any_weights)}{model_named(checkpoint.config)}); "
            f"known are {', '.join(TITLES)}, and checkpoints of this package"
        )
    if ema is not None and not (average if ema else plain):
        raise InputError(f"{source} has no {'averaged' if ema else 'plain'} weights; leave ema away")
    preferred = recognised is None or recognised.family.evaluates_average
    use_average = bool(average) and (not plain or (preferred if ema is None else ema))
    entry, weights = next(iter((average if use_average else plain).items()))
    other = next(iter(plain if use_average else average), None)
    description = "weights averaged over training" if use_average else "plain weights"
    if entry:
        description += f" (its entry {entry!r}" + (f"; {other!r} is there too)" if other else ")")
    refuse_unreadable(str(source), checkpoint.content, weights)
    recognised = recognised and recognise(weights)
    configurations = []
    if recognised is not None:
        known = recognised.format
        stored = entry_configurations(checkpoint.content, str(source))
        for one in [*([checkpoint.config] if checkpoint.config else []), *stored]:
            form = format_of(one, known.configurations, known.title)
            configurations.append((one, form))
            if form is not None:
                recognised = recognised._replace(weights=form.adapted(one.fields, recognised.weights))
    return Pretrained(checkpoint, description, weights, recognised, configurations)


def _entries(content: Mapping[str, Any]) -> tuple[dict[str, Weights], dict[str, Weights]]:
    """Return the weights of a file by its entry, "" for a bare state dict: the plain ones, and the averaged ones."""
    # Lightning's weight averaging puts the average in the place of the plain weights, which it moves.
    averages = ("state_dict",) if "averaging_state" in content else AVERAGE_ENTRIES
    found = {name: _tensors(content.get(name)) for name in (*PLAIN_ENTRIES, *AVERAGE_ENTRIES)}
    plain = {name: weights for name, weights in found.items() if weights and name not in averages}
    average = {name: weights for name, weights in found.items() if weights and name in averages}
    if not plain and not average and (bare := _tensors(content)):
        return {"": bare}, {}
    return plain, average


def _tensors(value: Any) -> Weights:
    """Return the tensors of a dict, empty for anything else."""
    items = value.items() if isinstance(value, Mapping) else ()
    return without_wrappers({key: value for key, value in items if isinstance(key, str) and isinstance(value, Tensor)})


def _is_ours(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Whether this is a Lightning checkpoint of one of our tasks."""
    parts = {key.split(".")[0] for key in weights}
    return "pytorch-lightning_version" in content and {"backbone", "objective"} <= parts

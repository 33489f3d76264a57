"""What comes with published weights beside their tensors, compared with the backbone that they go into.

Activations, epsilons or numbers of heads leave no trace in tensors: with others, weights load without a missing key and
compute something else.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mambarium.errors import InputError

CONFIG_FILE = "config.json"
"""What transformers, timm and mamba_ssm call the file beside the weights."""

_APART = "; if it isn't the configuration of the weights beside it, move them apart"
_NAMES_OF_MODELS = ("model_type", "architecture", "architectures")


class StoredConfiguration(NamedTuple):
    """A configuration as it was found.

    Attributes:
        place: `CONFIG_FILE`, or the entry of the weights' file that holds it.
        title: Where it is, for messages.
        fields: Values by name; those within others by dotted names, such as "pretrained_cfg.mean".
    """

    place: str
    title: str
    fields: dict[str, Any]


class Expected(NamedTuple):
    """What a field must say.

    Attributes:
        values: Any of these; the first one is what our backbone has.
        argument: The argument of the backbone's constructor that decides it; None where the family has no other.
        of: What of the field's value is compared.
        free: Whether weights serve other values too, so that a difference is only said.
    """

    values: tuple[Any, ...]
    argument: str | None = None
    of: Callable[[Any], Any] = lambda value: value
    free: bool = False


def fixed(**values: Any) -> dict[str, Expected]:
    """Fields for which our family has one value."""
    return {name: Expected((value,)) for name, value in values.items()}


@dataclass(frozen=True)
class ConfigurationFormat:
    """How one project writes a configuration, and what of it matters.

    Field names are shell patterns in `harmless`, `settings` and `images`.

    Attributes:
        place: As in `StoredConfiguration`.
        identity: For the fields that name the model a regular expression of the names that compute as our family does;
            the first field is the one by which this format is known.
        expected: What the fields must say for the weights to serve a backbone of our family.
        harmless: Fields that change nothing of what given weights compute.
        settings: Fields that are all settings of the model, so that an unknown one that is set is refused.
        images: Fields that say how the images were prepared.
        adapted: The weights as a configuration has them.
    """

    place: str
    identity: Mapping[str, str]
    expected: Callable[[Any], Mapping[str, Expected]]
    harmless: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    adapted: Callable[[Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]] = lambda fields, weights: {
        **weights
    }


@dataclass
class Comparison:
    """What a comparison of configurations with a backbone found.

    Attributes:
        matching: For each configuration, how many of its fields say what the backbone has.
        arguments: Arguments of the backbone's constructor that were compared.
        unread: Fields of which nothing is known here.
        notes: What a user should know.
    """

    matching: dict[str, int] = field(default_factory=dict)
    arguments: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_config_file(path: Path, title: str) -> StoredConfiguration:
    """Return a file `config.json`; InputError if it is no JSON object."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{title} can't be read as JSON ({str(error)[:120]}){_APART}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{title} holds a {type(fields).__name__}, expected named fields{_APART}")
    return StoredConfiguration(CONFIG_FILE, title, flattened(fields))


def entry_configurations(content: Mapping[str, Any], source: str) -> list[StoredConfiguration]:
    """Return what training scripts put into files: argparse's "args", the "config" of yacs, mmengine's."""
    found = []
    meta = content.get("meta")
    if isinstance(meta, Mapping):
        text = {name: meta[name] for name in ("config", "cfg") if name in meta}
        found.append(StoredConfiguration("meta", f"{source}, its entry 'meta'", text))
    for name in ("args", "config"):
        entry = content.get(name)
        fields = vars(entry) if isinstance(entry, argparse.Namespace) else entry
        if isinstance(fields, Mapping):
            found.append(StoredConfiguration(name, f"{source}, its entry {name!r}", flattened(fields)))
    return found


def flattened(fields: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Fields with those inside others by dotted names; empty ones inside say nothing and are left out."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def format_of(
    stored: StoredConfiguration, known: tuple[ConfigurationFormat, ...], title: str
) -> ConfigurationFormat | None:
    """Return the format of a configuration that came with weights, None if it isn't a model's.

    Another model than the weights' names say, and quantised weights, raise InputError.
    """
    for name, value in stored.fields.items():
        if name.startswith("quantization_config."):
            raise InputError(
                f"{stored.title} says of its weights {name} = {value!r}; give weights without quantisation"
            )
    for form in known:
        if form.place == stored.place and next(iter(form.identity)) in stored.fields:
            for name, pattern in form.identity.items():
                for value in _listed(stored.fields.get(name)):
                    if not re.fullmatch(pattern, str(value)):
                        raise InputError(f"{stored.title}: {name} is {value!r}, {_another_model(stored, title)}")
            return form
    for name in _NAMES_OF_MODELS:
        if stored.place == CONFIG_FILE and name in stored.fields:
            raise InputError(f"{stored.title}: {name} is {stored.fields[name]!r}, {_another_model(stored, title)}")
    return None


def model_named(stored: StoredConfiguration | None) -> str:
    """Return the model that a configuration names, for messages; empty if it names none."""
    names = [] if stored is None else [name for name in _NAMES_OF_MODELS if name in stored.fields]
    return f"; its {stored.place} says {names[0]} {stored.fields[names[0]]!r}" if stored and names else ""


def compare(stored: StoredConfiguration, form: ConfigurationFormat | None, backbone: Any, found: Comparison) -> None:
    """Compare a configuration with a backbone; InputError if a field says what the backbone doesn't compute."""
    if form is None:
        found.unread += [f"{name} ({stored.title})" for name in stored.fields]
        return
    family, expected = type(backbone).__name__, form.expected(backbone)
    matching, images = 0, []
    for name, value in stored.fields.items():
        if name in expected:
            wanted = expected[name]
            ours = f"{wanted.argument or ''} {wanted.values[0]!r}".strip()
            what = f"{stored.title}: {name} is {value!r}, {family} here has {ours}"
            found.arguments |= {wanted.argument} if wanted.argument else set()
            try:
                compared = wanted.of(value)
            except (TypeError, ValueError):  # no number where one is expected: none of ours
                compared = value
            if any(same(compared, one) for one in wanted.values):
                matching += 1
            elif wanted.free:
                found.notes.append(what)
            elif wanted.argument is None:
                raise InputError(f"{what} and no other, so that these weights would compute something else")
            else:
                raise InputError(f"{what}; set {wanted.argument}, or these weights would compute something else")
        elif name in form.identity:
            matching += 1
        elif _fits(name, form.images):
            images.append(f"{name.rpartition('.')[2]} {value}")
        elif _fits(name, form.settings) and not _fits(name, form.harmless) and value:
            raise InputError(
                f"{stored.title}: {name} is {value!r}, a setting of the model that is not known here, with which these "
                "weights may compute something else"
            )
        elif not _fits(name, form.harmless):
            found.unread.append(f"{name} ({stored.title})")
    if images:
        found.notes.append(f"{stored.title}: images were prepared with {', '.join(images)}")
    found.matching[stored.title] = matching


def compare_untraced(
    source: str,
    published: Mapping[str, Mapping[str, Expected]],
    ours: Mapping[str, Expected],
    backbone: Any,
    found: Comparison,
) -> None:
    """Compare what tensors don't show with the published variants whose tensors are the same.

    InputError if a configuration says that the weights are a published model's, and it has other arguments.
    """
    differing = {
        name: [key for key in ours if key not in found.arguments and ours[key].values != theirs[key].values]
        for name, theirs in published.items()
    }
    if not all(differing.values()) or not differing:
        return
    name, keys = min(differing.items(), key=lambda item: len(item[1]))
    key = min(keys, key=lambda one: ours[one].free)
    values = [repr(one[key].values[0]) for one in (ours, published[name])]
    shown = f" ({values[0]}, there {values[1]})" if len("".join(values)) <= 80 else ""
    family = type(backbone).__name__
    what = f"{source}: tensors as those of {name}, but {family} here has other {key}{shown}"
    if found.matching and not ours[key].free:
        raise InputError(f"{what}; set {key}, or these weights would compute something else")
    found.notes.append(what)


def _another_model(stored: StoredConfiguration, title: str) -> str:
    apart = _APART if stored.place == CONFIG_FILE else ""
    return f"another model than {title}, which would take its weights and compute something else{apart}"


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def same(found: Any, expected: Any) -> bool:
    """Whether two values say the same: lists and tuples, integers and floats, upper and lower case."""
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, str) and isinstance(expected, str):
        return found.casefold() == expected.casefold()
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return math.isclose(found, expected, rel_tol=1e-9)
    return bool(found == expected)

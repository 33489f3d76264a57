"""What a published checkpoint format is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.configuration import ConfigurationFormat, Expected

Weights: TypeAlias = dict[str, Tensor]
"""A state dict: tensors by name."""


@dataclass(frozen=True)
class Format:
    """How one project writes the weights of one family.

    Several formats of a family may spell the names differently; each brings its spelling to that of the family's
    official code, for which `backbone_key` and `head_key` give our parameters' keys.

    Attributes:
        title: Family and project, for messages.
        family: The class of our backbone.
        variants: The family's published variants by name.
        recognises: Whether names are those of this format.
        to_official: A state dict of this format with the names of the official code, its tensors in the shapes of ours.
        backbone_key: The official key of a parameter or buffer of our backbone.
        head_key: The official key of a parameter or buffer of our published head: of `backbone.classifier(...)`, or
            "embedding.weight" and "head.weight" of a language model.
        evaluates_average: Whether the official code evaluates the weights averaged over training, where a file has
            both.
        exported: Tensors of ours under their official keys, brought to the shapes of the official code.
        configurations: What may come with the weights and say what they don't.
        untraced: A backbone's arguments that leave no trace in its tensors, but which its weights depend on.
    """

    title: str
    family: type[Backbone]
    variants: Mapping[str, Callable[[], Backbone]]
    recognises: Callable[[Collection[str]], bool]
    to_official: Callable[[Mapping[str, Tensor]], Weights]
    backbone_key: Callable[[str], str]
    head_key: Callable[[str], str]
    evaluates_average: bool = False
    exported: Callable[[Mapping[str, Tensor]], Weights] = dict
    configurations: tuple[ConfigurationFormat, ...] = ()
    untraced: Callable[[Any], Mapping[str, Expected]] = lambda backbone: {}

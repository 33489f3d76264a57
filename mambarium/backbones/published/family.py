"""What a family says of itself beside its model: published variants, figures, weights and formats of checkpoints."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from mambarium.backbones.contract import Backbone
from mambarium.backbones.published.configuration import ConfigurationFormat, Expected

Weights: TypeAlias = dict[str, Tensor]
"""A state dict: tensors by name."""

IMAGENET = "ImageNet-1K top-1 %"


@dataclass(frozen=True)
class Evaluation:
    """How the authors prepare an image when they evaluate.

    Attributes:
        size: Height and width of what the model is given, in pixels.
        crop: Share of the resized image's side that the central crop keeps.
        interpolation: Of the resizing.
        mean: Subtracted from the channels, of values from 0 to 1.
        std: By which they are then divided.
        squash: Whether the image is resized to a square, rather than its shorter side to the square's.
    """

    size: int = 224
    crop: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    squash: bool = False

    def __str__(self) -> str:
        squashed = ", squashed to a square" if self.squash else ""
        return (
            f"{self.size} pixels, crop {self.crop:g}, {self.interpolation}{squashed}, mean {self.mean}, std {self.std}"
        )


@dataclass(frozen=True)
class PublishedWeights:
    """Where a variant's weights are.

    Attributes:
        address: A URL, or `owner/name` or `owner/name:file` on the Hugging Face hub.
        licence: Of the weights; where none is stated, of the repository that publishes them.
        evaluation: How the figure was measured; None for text.
        sha256: The file's SHA-256 or how it begins; None where none is published.
    """

    address: str
    licence: str
    evaluation: Evaluation | None = Evaluation()
    sha256: str | None = None


@dataclass(frozen=True)
class Published:
    """What is published of a variant.

    Attributes:
        figure: The headline result, in the metric's unit.
        metric: What was measured.
        input_size: Height and width of the images in pixels, or the number of tokens.
        gmacs: Compute of one input in 10^9 multiply-accumulates (which papers call FLOPs), as its source counted it;
            None where none is published.
        source: Paper or official repository.
        weights: None where none are published.
    """

    figure: float
    metric: str
    input_size: int
    gmacs: float | None
    source: str
    weights: PublishedWeights | None = None


@dataclass(frozen=True)
class Counted:
    """How large a variant is here, as `list` shows it and a test counts it.

    Attributes:
        parameters: With a head for 1,000 classes or 50,280 tokens.
        gmacs: Compute of one input of the published size in 10^9 multiply-accumulates: of products, convolutions,
            attention and scans.
    """

    parameters: int
    gmacs: float


@dataclass(frozen=True)
class Format:
    """How one project writes the weights of one family.

    Several formats of a family may spell the names differently; each brings its spelling to that of the family's
    official code.

    Attributes:
        title: Family and project, for messages.
        recognises: Whether names are those of this format.
        to_official: A state dict of this format with the names of the official code, its tensors in the shapes of ours.
        configurations: What may come with the weights and say what they don't.
    """

    title: str
    recognises: Callable[[Collection[str]], bool]
    to_official: Callable[[Mapping[str, Tensor]], Weights] = dict
    configurations: tuple[ConfigurationFormat, ...] = ()


@dataclass(frozen=True)
class Family:
    """A family's home in one value.

    Attributes:
        backbone: The class.
        variants: How to build the published variants, by name.
        published: What is published of them; those that no paper trained as such are not in it.
        formats: Formats of published checkpoints, the official one first.
        backbone_key: The official key of a parameter or buffer of our backbone.
        head_key: The official key of a parameter or buffer of our published head: of `backbone.classifier(...)`, or
            "embedding.weight" and "head.weight" of a language model.
        evaluates_average: Whether the official code evaluates the weights averaged over training, where a file has
            both.
        exported: Tensors of ours under their official keys, brought to the shapes of the official code.
        untraced: A backbone's arguments that leave no trace in its tensors, but which its weights depend on.
        counted: Sizes of the published variants.
    """

    backbone: type[Backbone]
    variants: Mapping[str, Callable[..., Backbone]] = field(default_factory=dict)
    published: Mapping[str, Published] = field(default_factory=dict)
    formats: tuple[Format, ...] = ()
    backbone_key: Callable[[str], str] = str
    head_key: Callable[[str], str] = str
    evaluates_average: bool = False
    exported: Callable[[Mapping[str, Tensor]], Weights] = dict
    untraced: Callable[[Any], Mapping[str, Expected]] = lambda backbone: {}
    counted: Mapping[str, Counted] = field(default_factory=dict)


def having(*keys: str) -> Callable[[Collection[str]], bool]:
    """Recognise a format by keys that all of its state dicts have."""
    return lambda found: all(key in found for key in keys)


def renamed(key: str, rules: Mapping[str, str]) -> str:
    """Return a key after the first rule that applies to it, from regular expressions to their replacements."""
    for pattern, replacement in rules.items():
        changed, count = re.subn(pattern, replacement, key)
        if count:
            return changed
    return key


def renaming(rules: Mapping[str, str]) -> Callable[[Mapping[str, Tensor]], Weights]:
    """Return a state dict's renaming by rules, as `renamed` does it key by key."""
    return lambda weights: {renamed(key, rules): value for key, value in weights.items()}

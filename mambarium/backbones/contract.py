"""What a backbone takes and returns, for sequences and for images.

A task holds a backbone only through these classes, so any backbone that keeps the contract serves every task
of its kind, one written outside this package included.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = Tensor | list["State"] | dict[str, "State"]
"""The memory of a sequence backbone: a plain tree of lists and dicts, its leaves tensors (batch, ...)."""


class KernelUser:
    """What a module derives from that computes with operations of `mambarium.kernels`: training compiles them first.

    Attributes:
        operations: The operations, such as `selective_scan`.
    """

    operations: ClassVar[tuple[Callable[..., Any], ...]]


class Backbone(nn.Module, ABC):
    """A network from input to features, without any knowledge of the task that uses them.

    Attributes:
        layer_patterns: Regular expressions of how parameter names begin; the first that fits counts. The first group is
            the number of a parameter's stage, to which the number beside the expression is added, the second the number
            of its layer in the stage. An expression without groups stands for so many layers behind the last one. What
            fits none is the embedding or stem.
        no_weight_decay: Last names of parameters, of this module or of those of another library within it, that weight
            decay must leave alone: positions, tokens, rates. Any module may have it; biases, norms and embeddings need
            none.
    """

    layer_patterns: ClassVar[tuple[tuple[str, int], ...]] = ()
    no_weight_decay: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def _places(self) -> dict[str, tuple[int, ...]]:
        """By parameter name stage and layer, as `layer_patterns` says; () for the embedding or stem."""
        places: dict[str, tuple[int, ...]] = {}
        behind: dict[str, int] = {}
        for name, _ in self.named_parameters():
            places[name] = ()
            found = ((re.match(pattern, name), shift) for pattern, shift in self.layer_patterns)
            for match, shift in found:
                if match and match.groups():
                    stage, layer = (*map(int, filter(None, match.groups())), 0)[:2]
                    places[name] = (stage + shift, layer)
                elif match:
                    behind[name] = shift
                if match:
                    break
        stage, layer = max(places.values()) or (0, 0)
        return places | {name: (stage, layer + shift) for name, shift in behind.items()}

    @cached_property
    def _depths(self) -> dict[tuple[int, ...], int]:
        """The number of each place, from input to output."""
        return {place: depth for depth, place in enumerate(sorted({(), *self._places.values()}))}

    def depth_of(self, parameter_name: str) -> int:
        """How deep a parameter sits: 0 for the input embedding or stem, `max_depth` for the last layer.

        Args:
            parameter_name: A name from `named_parameters()` of this backbone.
        """
        return self._depths[self._places[parameter_name]]

    @property
    def operations(self) -> list[Callable[..., Any]]:
        """The operations of `mambarium.kernels` that its modules compute with, each once."""
        users = (module for module in self.modules() if isinstance(module, KernelUser))
        return list(dict.fromkeys(operation for user in users for operation in user.operations))

    def repeated_blocks(self) -> list[nn.Module]:
        """Return the blocks that the network repeats, from input to output, to be computed again for less memory.

        They are the modules that the first of `layer_patterns` names.
        """
        patterns = [pattern for pattern, _ in self.layer_patterns[:1]]
        named = dict(self.named_modules())
        return [named[name] for pattern in patterns for name in named if re.fullmatch(pattern, f"{name}.")]

    @property
    def max_depth(self) -> int:
        """The largest value of `depth_of` over all parameters."""
        return max(self.depth_of(name) for name, _ in self.named_parameters())

    def resized(self, parameter_name: str, stored: Tensor) -> Tensor | None:
        """Return a stored parameter of another shape brought to this backbone's, where its family knows how.

        Positions learned for other image sizes are the case in point. None says that the two don't fit, as here.

        Args:
            parameter_name: A name from `named_parameters()` of this backbone.
            stored: What a checkpoint holds under this name.
        """
        return None


class SequenceOutput(NamedTuple):
    """What a sequence backbone returns.

    Attributes:
        features: (batch, length, width).
        state: The memory after the last position, or None if the call was made without one.
        auxiliary_losses: Scalar losses by name, to be added to the task's loss in training (such as the
            balance of experts).
    """

    features: Tensor
    state: State | None
    auxiliary_losses: dict[str, Tensor]


class SequenceBackbone(Backbone):
    """A causal network on sequences of vectors.

    One pass over a sequence, any split of it into chunks that hand on the state, and one position at a time
    give the same features in evaluation. Embedding and vocabulary head belong to the task.

    Attributes:
        width: Size of the input and output vectors.
        constant_state: Whether the state keeps its size however long the sequence grows.
    """

    layer_patterns = ((r"layers\.(\d+)\.", 0), (r"norm_f\.", 0))
    width: int
    constant_state: bool

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        """Features of every position.

        Args:
            x: (batch, length, width), length at least 1.
            state: Memory of what came before, from `initial_state` or from an earlier call; None starts
                afresh and returns no state, which saves the work of keeping one.
            document_ids: (batch, length) integers, equal within a document; nothing flows from one document
                to the next. When used with a state, use it in every call of the sequence.
        """

    @abstractmethod
    def initial_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Return the memory before the first position.

        Args:
            batch_size: Number of sequences.
            max_length: Longest sequence that will be read, for backbones whose state grows.
            device: Where the state lives; the parameters' device if None.
            dtype: Type of the state's floating-point tensors; the parameters' type if None.
        """


class FeatureInfo(NamedTuple):
    """Channels and stride, in input pixels, of one feature map."""

    channels: int
    stride: int


class VisionFeatures(NamedTuple):
    """What a vision backbone returns.

    Attributes:
        maps: Feature maps from fine to coarse, map i of shape
            (batch, channels_i, ceil(height / stride_i), ceil(width / stride_i)).
        class_token: (batch, channels) of a backbone that has such a token, otherwise None.
        auxiliary_losses: Scalar losses by name, to be added to the task's loss in training.
    """

    maps: list[Tensor]
    class_token: Tensor | None
    auxiliary_losses: dict[str, Tensor]


class VisionBackbone(Backbone):
    """A network from images to a list of feature maps.

    Attributes:
        feature_info: Channels and stride of each map that `forward` returns.
        size_divisibility: Height and width of an image must be multiples of this; tasks pad.
    """

    feature_info: tuple[FeatureInfo, ...]
    size_divisibility: int

    @abstractmethod
    def forward(self, images: Tensor) -> VisionFeatures:
        """Feature maps of images (batch, 3, height, width).

        Raises:
            InputError: If they don't have 3 channels, or a height or width that is too small or no multiple of
                `size_divisibility`.
        """

    def stages(self) -> list[list[str]]:
        """Parameter names from input to output, stem and stages in order: the units that a task can freeze.

        Every parameter belongs to exactly one stage.
        """
        stages: dict[tuple[int, ...], list[str]] = {}
        for name, place in self._places.items():
            stages.setdefault(place[:1], []).append(name)
        return [stages[stage] for stage in sorted(stages)]

    @abstractmethod
    def classifier(self, num_classes: int) -> nn.Module:
        """Return a new classification tail and head as published: VisionFeatures to logits (batch, num_classes)."""


def map_state(state: State, function: Callable[[Tensor], Tensor]) -> State:
    """Apply a function to every tensor of a state and return the new tree."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: map_state(value, function) for key, value in state.items()}
    return [map_state(value, function) for value in state]


def reorder_state(state: State, order: Tensor) -> State:
    """Pick the sequences `order` (new_batch,) of a state: for beam search, or to repeat a prompt."""
    return map_state(state, lambda tensor: tensor.index_select(0, order))


def detach_state(state: State) -> State:
    """Cut a state from the graph that computed it, for truncated back-propagation."""
    return map_state(state, lambda tensor: tensor.detach())

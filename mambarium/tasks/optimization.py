"""Parameter groups, frozen parameters and learning-rate schedules."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mambarium.backbones.contract import Backbone, VisionBackbone
from mambarium.errors import InputError
from mambarium.private_names.torch import RunningNorms

OptimizerFactory = Callable[[Iterable], Optimizer]
"""Makes an optimiser from parameter groups; in YAML: `class_path: torch.optim.AdamW` with its `init_args`."""


class SharedFactory:
    """An optimiser factory that deep copies of a task share, as weight averaging makes them.

    A factory has no state, and the command line's refers to its parser, which can't be copied.
    """

    def __init__(self, factory: OptimizerFactory) -> None:
        self.factory = factory

    def __call__(self, groups: Iterable) -> Optimizer:
        return self.factory(groups)

    def __deepcopy__(self, memo: dict) -> SharedFactory:
        return self


UNDECAYED_MODULES = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm, RunningNorms)


def undecayed_parameters(model: nn.Module) -> set[int]:
    """Identities of the parameters on which weight decay does not belong.

    Decay shrinks weights that multiply features, not what sets a scale, an offset or a rate: norms, biases, embeddings,
    and what a module names in `no_weight_decay`, such as the state-space matrices `A_log` and `D`. Mamba-1's `A_log`
    has two dimensions, so the number of dimensions alone does not decide.
    """
    undecayed = set()
    for module in model.modules():
        own_kind = isinstance(module, UNDECAYED_MODULES)
        for parameter in module.parameters(recurse=False):
            if own_kind or parameter.ndim <= 1 or getattr(parameter, "_no_weight_decay", False):
                undecayed.add(id(parameter))
        names = getattr(module, "no_weight_decay", ())
        if isinstance(names, tuple):  # other libraries have methods of that name
            undecayed |= {id(value) for name, value in module.named_parameters() if name.rpartition(".")[2] in names}
    return undecayed


RATE_FACTOR = "lr_factor"
"""Entry of a parameter group that says by how much its learning rate is multiplied."""


def parameter_groups(model: nn.Module, rate_factors: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Split the trainable parameters into those with and those without weight decay, and by learning rate.

    Each parameter, shared ones too, stands in exactly one group, in the order of `named_parameters`. A parameter that
    two modules share (a tied embedding) has no decay if it has none in one of them. For each rate there is one group
    that takes the optimiser's own `weight_decay` and one with 0, empty groups left out; groups with another rate than 1
    carry it as `RATE_FACTOR`.
    """
    undecayed = undecayed_parameters(model)
    factors = rate_factors or {}
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for factor in dict.fromkeys(factors.get(name, 1.0) for name, _ in trainable):
        of_rate = [parameter for name, parameter in trainable if factors.get(name, 1.0) == factor]
        rate = {} if factor == 1.0 else {RATE_FACTOR: factor}
        groups += [
            {"params": [parameter for parameter in of_rate if id(parameter) not in undecayed], **rate},
            {"params": [parameter for parameter in of_rate if id(parameter) in undecayed], "weight_decay": 0.0, **rate},
        ]
    return [group for group in groups if group["params"]]


def layer_rates(backbone: Backbone, layer_decay: float) -> dict[str, float]:
    """Factors on the learning rate, by the backbone's parameter names, that fall from layer to layer towards the input.

    A parameter at depth d of a backbone of depth n gets layer_decay^(n + 1 - d); what stands on the backbone has the
    full rate (Clark et al. 2020, "ELECTRA", appendix A; Bao et al. 2021, "BEiT").

    Raises:
        InputError: If the factor is not above 0 and at most 1.
    """
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay is {layer_decay}; give a factor above 0, at most 1, or null for one rate")
    depth = backbone.max_depth
    return {name: layer_decay ** (depth + 1 - backbone.depth_of(name)) for name, _ in backbone.named_parameters()}


def freeze(backbone: Backbone, frozen_stages: int) -> None:
    """Take first stages out of training: of `VisionBackbone.stages()`, or layers of a sequence backbone.

    Raises:
        InputError: If it has fewer.
    """
    if isinstance(backbone, VisionBackbone):
        stages = backbone.stages()
    else:
        depths = {name: backbone.depth_of(name) for name, _ in backbone.named_parameters()}
        stages = [[name for name in depths if depths[name] == depth] for depth in sorted(set(depths.values()))]
    if not 0 <= frozen_stages <= len(stages):
        raise InputError(
            f"frozen_stages is {frozen_stages}: {type(backbone).__name__} has {len(stages)}, give 0 to {len(stages)}"
        )
    parameters = dict(backbone.named_parameters())
    for name in itertools.chain.from_iterable(stages[:frozen_stages]):
        parameters[name].requires_grad_(False)


class Schedule(ABC):
    """A learning-rate factor as a function of progress, so that one schedule fits runs of any length."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Factor on the optimiser's learning rate.

        Args:
            progress: Share of the run's steps that are done after the step at this rate: step s of n, counted from 0,
                has (s + 1) / n, so the first is above 0 and the last has 1.
        """


class Constant(Schedule):
    """The optimiser's learning rate throughout."""

    def __call__(self, progress: float) -> float:
        return 1.0


def _check_warmup(warmup: float, final: float) -> None:
    if not 0 <= warmup <= 1:
        raise InputError(f"warmup is {warmup}; give the share of all steps, from 0 to 1")
    if not final >= 0:
        raise InputError(f"final is {final}; give the learning rate's factor at the last step, 0 or more")


class WarmupLinear(Schedule):
    """Linear warm-up, then a straight line down to a final factor.

    Args:
        warmup: Share of all steps spent warming up, from 0 to 1.
        final: Factor at the last step, 0 or more.

    Raises:
        InputError: If one of them is out of range.
    """

    def __init__(self, warmup: float = 0.05, final: float = 0.0) -> None:
        _check_warmup(warmup, final)
        self.warmup, self.final = warmup, final

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        remaining = (progress - self.warmup) / max(1.0 - self.warmup, 1e-12)
        return self.fall(min(remaining, 1.0))

    def fall(self, share: float) -> float:
        """Return the factor after this share of the way down."""
        return 1.0 - (1.0 - self.final) * share


class WarmupCosine(WarmupLinear):
    """`WarmupLinear` with a half cosine in place of the straight line."""

    def fall(self, share: float) -> float:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))


class WarmupSteps(Schedule):
    """Linear warm-up, then constant but for drops, as detectors are trained.

    Args:
        warmup: Share of all steps spent warming up, from 0 to 1.
        drops: Shares of all steps after which the rate drops; 2/3 and 11/12 are epochs 8 and 11 of 12.
        factor: What each drop multiplies the rate by.
        start: Factor at the start of the warm-up.

    Raises:
        InputError: If a number is out of range, or the drops don't rise.
    """

    def __init__(
        self,
        warmup: float = 0.01,
        drops: tuple[float, ...] = (2 / 3, 11 / 12),
        factor: float = 0.1,
        start: float = 0.001,
    ) -> None:
        _check_warmup(warmup, 0.0)
        if list(drops) != sorted(drops) or not all(0 < drop <= 1 for drop in drops):
            raise InputError(f"drops is {list(drops)}; give rising shares of all steps, above 0 and up to 1")
        for name, value in (("factor", factor), ("start", start)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; give a number from 0 to 1")
        self.warmup, self.drops, self.factor, self.start = warmup, tuple(drops), factor, start

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return self.start + (1.0 - self.start) * progress / self.warmup
        return self.factor ** sum(progress > drop for drop in self.drops)

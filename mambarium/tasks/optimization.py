"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from mambarium.errors import InputError

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


UNDECAYED_MODULES = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm, _NormBase)
UNDECAYED_NAMES = (
    "A_log",
    "A_b_log",
    "A_logs",
    "log_A_real",
    "A_imag",
    "B",
    "dt_projs_bias",
    "pos_embed",
    "cls_token",
    "pos_embedding",
    "class_token",
    "layer_scale",
    "relative_position_bias_table",
)


def is_decayed(module: nn.Module, parameter_name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay belongs on a parameter.

    Decay shrinks weights that multiply features. It does not belong on parameters that set a scale, an offset or a
    rate: norms, biases, embeddings, the state-space matrices `A_log` and `D` (and S4D's fixed A and B), time-step
    biases. Mamba-1's `A_log` has two dimensions, so the number of dimensions alone does not decide.

    Args:
        module: The module that owns the parameter.
        parameter_name: Its name within that module.
        parameter: The parameter itself.
    """
    return not (parameter.ndim <= 1 or isinstance(module, UNDECAYED_MODULES) or parameter_name in UNDECAYED_NAMES)


def parameter_groups(model: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    """Split the trainable parameters into those with and those without weight decay.

    Each parameter, shared ones too, stands in exactly one group, in the order of `named_parameters`. A parameter that
    two modules share (a tied embedding) has no decay if it has none in one of them.

    Returns:
        One group that takes the optimiser's own `weight_decay` and one with 0, empty groups left out.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not is_decayed(module, name, parameter)
    }
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict] = [
        {"params": [parameter for parameter in trainable if id(parameter) not in undecayed]},
        {"params": [parameter for parameter in trainable if id(parameter) in undecayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
        raise InputError(f"warmup is {warmup}: give the share of all steps, from 0 to 1")
    if not final >= 0:
        raise InputError(f"final is {final}: give the learning rate's factor at the last step, 0 or more")


class WarmupCosine(Schedule):
    """Linear warm-up, then a half cosine down to a final factor.

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
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(remaining, 1.0)))


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
        return 1.0 - (1.0 - self.final) * min(remaining, 1.0)

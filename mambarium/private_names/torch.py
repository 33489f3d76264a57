"""What is used of PyTorch 2.11, and of NumPy by PyTorch's files, beyond their public names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from numpy._core.multiarray import _reconstruct, scalar
from torch.autograd import forward_ad
from torch.library import CustomOpDef
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Function = TypeVar("Function", bound=Callable[..., Any])

BatchNorms = _BatchNorm
"""All batch norms, the synchronised one included: they have no public common class."""

RunningNorms = _NormBase
"""All batch and instance norms."""

NUMPY_REBUILDERS: tuple[Any, ...] = (_reconstruct, scalar)
"""What files that hold arrays and numbers of NumPy name to rebuild them."""


def functional_transforms_are_active() -> bool:
    """Whether code runs inside `torch.func` transforms; there is no public question."""
    return torch._C._are_functorch_transforms_active()


def is_in_forward_mode() -> bool:
    """Whether forward-mode derivatives may be taken: within torch.func.jvp, jacfwd and forward_ad.dual_level.

    To enter and to leave a level is public, the level is not.
    """
    return forward_ad._current_level >= 0


def is_in_dispatch_mode() -> bool:
    """Whether a mode is told of each operation of torch, as counters, fake tensors and selective checkpoints are."""
    return is_in_torch_dispatch_mode()


def operation_schema(operation: CustomOpDef) -> Any:
    """Return an operation's schema: its name and those of its arguments are told nowhere else."""
    return operation._opoverload._schema


def keep_as_constant_in_graphs(function: Function) -> Function:
    """Have `torch.compile` call a function while it traces and keep the result, as for index maps that NumPy computes.

    It does what `torch.compiler.assume_constant_result` does, which would import the compiler.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function

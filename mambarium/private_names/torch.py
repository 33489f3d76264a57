"""What is used of PyTorch 2.11, and of NumPy by PyTorch's files, beyond their public names."""

from __future__ import annotations

from typing import Any

import torch
from numpy._core.multiarray import _reconstruct, scalar
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

BatchNorms = _BatchNorm
"""All batch norms, the synchronised one included: they have no public common class."""

RunningNorms = _NormBase
"""All batch and instance norms."""

NUMPY_REBUILDERS: tuple[Any, ...] = (_reconstruct, scalar)
"""What files that hold arrays and numbers of NumPy name to rebuild them."""


def functional_transforms_are_active() -> bool:
    """Whether code runs inside `torch.func` transforms; there is no public question."""
    return torch._C._are_functorch_transforms_active()


def is_constant_for_compilation(function: Any) -> Any:
    """Have `torch.compile` call a function of plain numbers while it traces, its result a constant of the graph.

    `torch._dynamo.mark_constant` would do so too, but importing it takes seconds.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function

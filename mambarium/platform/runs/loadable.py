"""Whether what a checkpoint is to hold can be loaded again, found out without writing its numbers."""

import io
from collections import OrderedDict
from typing import Any

import torch
from torch import nn


def check_loadable(checkpoint: dict[str, Any]) -> None:
    """Save and load a checkpoint in memory, with an empty tensor in place of each plain one.

    Args:
        checkpoint: The checkpoint, of any size.

    Raises:
        UnpicklingError: If `weights_only` loading would refuse it.
    """
    file = io.BytesIO()
    torch.save(_without_numbers(checkpoint), file)
    file.seek(0)
    torch.load(file, weights_only=True)


def _without_numbers(value: Any) -> Any:
    """Return the same structure with empty tensors; what isn't plain stays, for that is what may be refused."""
    kind = type(value)
    if kind is torch.Tensor and value.layout == torch.strided and not value.is_quantized:
        return torch.empty(0, dtype=value.dtype)
    if kind is nn.Parameter:
        return nn.Parameter(torch.empty(0, dtype=value.dtype), requires_grad=False)
    if kind is dict or kind is OrderedDict:
        return kind((key, _without_numbers(child)) for key, child in value.items())
    if kind is list or kind is tuple:
        return kind(_without_numbers(child) for child in value)
    return value

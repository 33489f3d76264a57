"""Checks of the operations' arguments, with messages that name argument, expected and found."""

from collections.abc import Sequence

import torch

HALF_OR_FLOAT = (torch.float32, torch.bfloat16, torch.float16)
REAL = (*HALF_OR_FLOAT, torch.float64)
REAL_OR_COMPLEX = (*REAL, torch.complex64, torch.complex128)


def check_shape(name: str, tensor: torch.Tensor, expected: Sequence[int], meaning: str) -> None:
    """Raise ValueError unless the tensor has the expected shape.

    Args:
        name: the argument's name.
        tensor: its value.
        expected: the expected shape.
        meaning: the names of the axes, such as "(batch, dim, length)".
    """
    if tensor.shape != tuple(expected):
        raise ValueError(f"{name}: expected shape {meaning} = {tuple(expected)}; found {tuple(tensor.shape)}")


def check_device(name: str, tensor: torch.Tensor, device: torch.device) -> None:
    """Raise ValueError unless the tensor lies on the device."""
    if tensor.device != device:
        raise ValueError(f"{name}: expected device {device}; found {tensor.device}")


def check_dtype(name: str, tensor: torch.Tensor, expected: Sequence[torch.dtype]) -> None:
    """Raise ValueError unless the tensor has one of the dtypes."""
    if tensor.dtype not in expected:
        names = ", ".join(str(dtype) for dtype in expected)
        raise ValueError(f"{name}: expected dtype {names}; found {tensor.dtype}")

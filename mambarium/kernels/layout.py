"""Memory layouts that the CPU backends hand to their kernels and back."""

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16


def float_memory(*shape: int) -> Tensor:
    """Uninitialised float32 memory on the CPU, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def float_zeros(*shape: int) -> Tensor:
    """float32 zeros on the CPU, whatever torch's default dtype and device are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def float_rows(x: Tensor) -> Tensor:
    """x as float32 with adjacent elements along the last axis; not copied where it is so already."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def row_fields(name: str, x: Tensor, reverse: bool = False) -> dict[str, int]:
    """Where the kernels find the rows of x, (batch, time, ...), which they visit from the first or from the last.

    Returns:
        The address of the first visit's row of batch element 0 as `name`, and the bytes from one batch element
        and from one visit to the next as `name`_batch and `name`_time.
    """
    batch, time = (x.element_size() * stride for stride in x.stride()[:2])
    if reverse:
        return {name: x.data_ptr() + (x.shape[1] - 1) * time, f"{name}_batch": batch, f"{name}_time": -time}
    return {name: x.data_ptr(), f"{name}_batch": batch, f"{name}_time": time}


def pack_channels(x: Tensor, groups: int = 1) -> Tensor:
    """Cuts the channels of each group into blocks of 16, padded with zeros.

    Args:
        x: (..., dim, n).
        groups: number of groups that dim consists of.

    Returns:
        (..., blocks, n, 16) contiguous, always a copy.
    """
    dim, n = x.shape[-2:]
    if dim // groups % LANES == 0:  # what most calls are, in fewer operations
        x = x.reshape(*x.shape[:-2], dim // LANES, LANES, n)
        return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format)
    x = x.unflatten(-2, (groups, -1))  # (..., groups, group_dim, n)
    x = F.pad(x, (0, 0, 0, -x.shape[-2] % LANES))
    x = x.unflatten(-2, (-1, LANES)).flatten(-4, -3)  # (..., blocks, 16, n)
    return x.transpose(-1, -2).clone(memory_format=torch.contiguous_format)


def unpack_channels(x: Tensor, dim: int, groups: int = 1) -> Tensor:
    """Undoes `pack_channels`: (..., blocks, n, 16) to (..., dim, n), contiguous, memory of its own, no view."""
    if x.shape[-3] * LANES == dim:
        unpacked = x.new_empty(*x.shape[:-3], dim, x.shape[-2])
        unpacked.view(*x.shape[:-2], LANES, x.shape[-2]).copy_(x.transpose(-1, -2))
        return unpacked
    x = x.transpose(-1, -2).unflatten(-3, (groups, -1)).flatten(-3, -2)  # (..., groups, padded, n)
    return x[..., : dim // groups, :].flatten(-3, -2).clone(memory_format=torch.contiguous_format)


def sum_parts(parts: Tensor) -> Tensor:
    """Sum over the first axis, in an order that does not depend on the number of threads; destroys the parts."""
    count = parts.shape[0]
    while count > 1:
        half = count // 2
        parts[:half] += parts[count - half : count]
        count -= half
    return parts[0] if parts.shape[0] == 1 else parts[0].clone()


def laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    """x, which is used up, with the dtype of `like` and the strides that `torch.empty_like(like)` has.

    No view of x: torch forbids to change in place what an operation returns as a view.
    """
    layout = torch.empty_like(like, device="meta")
    if x.dtype == layout.dtype and x.stride() == layout.stride():
        return x
    if x.dtype == layout.dtype and x.is_contiguous() and layout.is_contiguous():
        return x.as_strided_(layout.shape, layout.stride())  # axes of size 1 may have other strides
    return torch.empty_like(like).copy_(x)

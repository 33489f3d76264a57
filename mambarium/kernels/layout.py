"""Memory layouts that the CPU backends hand to their kernels and back."""

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
# Steps of a scan between two checkpoints; its kernels work tile by tile too.
TILE = 32


def float_memory(*shape: int) -> Tensor:
    """Return uninitialised float32 memory on the CPU, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def float_zeros(*shape: int) -> Tensor:
    """Return float32 zeros on the CPU, whatever torch's default dtype and device are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def float_rows(x: Tensor) -> Tensor:
    """Return x as float32 with adjacent elements along the last axis; not copied where it is so already."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def rows_of(x: Tensor, reverse: bool = False, group_channels: int = 0) -> tuple[int, int, int, int]:
    """Return where kernels find the rows of x, which they visit from the first to the last or the other way round.

    Args:
        x: (batch, time, channels) or (batch, time, groups, channels); one group there stands for all of them.
        reverse: whether the last row is visited first.
        group_channels: channels from one group to the next where the groups have no axis of their own.

    Returns:
        The address of the first visit's row of batch element 0, and the bytes from one batch element, from one visit
        and from one group to the next.
    """
    size = x.element_size()
    strides = x.stride()
    batch, time, group = size * strides[0], size * strides[1], size * group_channels
    if x.dim() == 4:
        group = size * strides[2] if x.shape[2] > 1 else 0
    if reverse:
        return x.data_ptr() + (x.shape[1] - 1) * time, batch, -time, group
    return x.data_ptr(), batch, time, group


def pack_channels(x: Tensor, groups: int = 1) -> Tensor:
    """Cut the channels of each group into blocks of 16, padded with zeros.

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
    """Undo `pack_channels`: (..., blocks, n, 16) to (..., dim, n), contiguous, memory of its own, no view."""
    if x.shape[-3] * LANES == dim:
        unpacked = x.new_empty(*x.shape[:-3], dim, x.shape[-2])
        unpacked.view(*x.shape[:-2], LANES, x.shape[-2]).copy_(x.transpose(-1, -2))
        return unpacked
    x = x.transpose(-1, -2).unflatten(-3, (groups, -1)).flatten(-3, -2)  # (..., groups, padded, n)
    return x[..., : dim // groups, :].flatten(-3, -2).clone(memory_format=torch.contiguous_format)


def sum_parts(parts: Tensor) -> Tensor:
    """Return the sum over the first axis, whose order the number of threads doesn't change; uses up the parts."""
    count = parts.shape[0]
    while count > 1:
        half = count // 2
        parts[:half] += parts[count - half : count]
        count -= half
    return parts[0] if parts.shape[0] == 1 else parts[0].clone()


def laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    """Return x, which is used up, with the shape and dtype of `like` and the strides of `torch.empty_like(like)`.

    No view of x: torch forbids to change in place what an operation returns as a view.

    Args:
        x: dense memory of its own; axes of `like` may be one axis in it, and the other way round.
        like: as many elements.
    """
    if x.dtype == like.dtype:
        if x.stride() == like.stride():
            return x
        layout = torch.empty_like(like, device="meta")
        if x.stride() == layout.stride():
            return x
        if x.is_contiguous() and layout.is_contiguous():
            return x.as_strided_(layout.shape, layout.stride())  # axes of size 1 may have other strides
    return torch.empty_like(like).copy_(x.view(like.shape))

"""Memory that the CPU backends hand to their kernels."""

import torch
from torch import Tensor

LANES = 16
# Steps of a scan between two checkpoints; its kernels work tile by tile too.
TILE = 32

# Address and strides of a tensor that is absent, as `address_and_strides` gives those of others.
ABSENT = (0, 0, 0, 0, 0)


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


def address_and_strides(
    x: Tensor, time: int, channel: int, batch: int | None = None, group: int = 0, reverse: bool = False
) -> tuple[int, int, int, int, int]:
    """Return the values of `cpu_rows.Rows` for a float32 tensor.

    Args:
        x: the tensor.
        time: the axis of steps.
        channel: the axis of channels.
        batch: the axis of the batch, if there is one.
        group: elements from one group of channels to the next.
        reverse: whether the last step is visited first.
    """
    shape, strides = x.shape, x.stride()
    step, address = 4 * strides[time], x.data_ptr()
    if reverse:
        address += (shape[time] - 1) * step
        step = -step
    # The stride of an axis of size 1 says nothing, and adjacent channels are what is read fastest.
    between = 4 * strides[channel] if shape[channel] > 1 else 4
    return address, 0 if batch is None else 4 * strides[batch], step, 4 * group, between

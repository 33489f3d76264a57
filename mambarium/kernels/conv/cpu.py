"""The CPU backend of the causal convolution: what the numba kernels need around them.

float32 memory of any strides is read and written in place; other dtypes are converted.
"""

from typing import Any

import torch
from torch import Tensor

from mambarium.kernels.conv.description import Conv
from mambarium.kernels.layout import ABSENT, LANES, address_and_strides
from mambarium.kernels.numba_runtime import import_kernels, run_kernel

_PARTS = 32
_KERNELS = "mambarium.kernels.conv.cpu_kernels"


def conv_forward(conv: Conv, out: Tensor) -> None:
    """Convolve, see `ConvBackend`."""
    kernels = import_kernels(_KERNELS)
    inputs, _kept = _inputs(conv, 0)
    written = _float_memory_like(out)
    target = address_and_strides(written, 1, 2, 0, reverse=conv.reverse)
    run_kernel(kernels, "forward", inputs, target, scratch_bytes=kernels.SCRATCH_BYTES)
    if written is not out:
        out.copy_(written)


def conv_backward(conv: Conv, grad_out: Tensor, gradients: Conv) -> None:
    """Write the gradients of all inputs, see `ConvBackend`."""
    kernels = import_kernels(_KERNELS)
    batch, _, dim = conv.x.shape
    batch_parts = min(batch, _PARTS)
    shared_bytes = batch_parts * -(-dim // LANES) * kernels.WEIGHT_BYTES
    inputs, _kept = _inputs(conv, shared_bytes)
    grad_out = grad_out.float()
    grad_x = _float_memory_like(gradients.x)
    grad_states = None if gradients.initial_states is None else _float_memory_like(gradients.initial_states)
    written = gradients._replace(x=grad_x, initial_states=grad_states)
    targets = (batch_parts, *address_and_strides(grad_out, 1, 2, 0, reverse=conv.reverse), *_tensors(written))
    run_kernel(kernels, "backward", inputs, targets, scratch_bytes=kernels.SCRATCH_BYTES, shared_bytes=shared_bytes)
    if grad_x is not gradients.x:
        gradients.x.copy_(grad_x)
        if grad_states is not None and gradients.initial_states is not None:
            gradients.initial_states.copy_(grad_states)


def _float_memory_like(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else torch.empty_like(x, dtype=torch.float32)


def _tensors(conv: Conv) -> tuple[int, ...]:
    """Where the kernels find x, weight, bias and initial states."""
    bias, states = conv.bias, conv.initial_states
    return (
        *address_and_strides(conv.x, 1, 2, 0, reverse=conv.reverse),
        *address_and_strides(conv.weight, 1, 0, reverse=True),
        *(ABSENT if bias is None else address_and_strides(bias, 0, 0)),
        *(ABSENT if states is None else address_and_strides(states, 1, 2, 0, reverse=True)),
    )


def _inputs(conv: Conv, shared_bytes: int) -> tuple[tuple[int, ...], Any]:
    """Return the values of the kernels' `Inputs`, and the tensors whose memory they point to, to be kept alive."""
    batch, length, dim = conv.x.shape
    states = None if conv.initial_states is None else conv.initial_states.float()
    kept = conv._replace(x=conv.x.float(), initial_states=states)
    seq_idx, first = None if conv.seq_idx is None else conv.seq_idx.contiguous(), 0
    if seq_idx is not None:
        first = seq_idx.data_ptr() + (4 * (length - 1) if conv.reverse else 0)
    inputs = (
        batch,
        length,
        dim,
        conv.weight.shape[1],
        int(conv.silu),
        -1 if conv.reverse else 1,
        shared_bytes,
        first,
        *_tensors(kept),
    )
    return inputs, (kept, seq_idx)

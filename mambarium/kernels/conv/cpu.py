"""The CPU backend of the causal convolution: what the numba kernels need around them.

float32 memory whose channels are adjacent is read in place; other inputs are converted to it first.
"""

from typing import Any

from torch import Tensor

from mambarium.kernels.conv.description import Conv
from mambarium.kernels.layout import (
    LANES,
    float_memory,
    float_rows,
    float_zeros,
    laid_out_as,
    pack_channels,
    rows_of,
    sum_parts,
    unpack_channels,
)
from mambarium.kernels.numba_runtime import import_kernels, run_kernel

_PARTS = 32
_KERNELS = "mambarium.kernels.conv.cpu_kernels"


def conv_forward(conv: Conv) -> Tensor:
    """Convolve, see `ConvBackend`."""
    kernels = import_kernels(_KERNELS)
    inputs, _kept = _inputs(kernels, conv)
    out = float_memory(*conv.x.shape)
    run_kernel(kernels, "forward", inputs, rows_of(out, conv.reverse)[0], scratch_bytes=0)
    return laid_out_as(out, conv.x)


def conv_backward(conv: Conv, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Compute the gradients of all inputs, see `ConvBackend`."""
    kernels = import_kernels(_KERNELS)
    inputs, _kept = _inputs(kernels, conv)
    x, weight, bias, initial_states = conv.x, conv.weight, conv.bias, conv.initial_states
    batch, _, dim = x.shape
    width, taps = weight.shape[1], kernels.TAPS
    batch_parts = min(batch, _PARTS)
    grad_out = float_rows(grad_out)
    grad_x = float_memory(*x.shape)
    grad_states = None if initial_states is None else float_memory(*initial_states.shape)
    grad_weights = float_zeros(batch_parts, -(-dim // LANES), taps + 1, LANES)
    gradients = kernels.Gradients(
        batch_parts,
        *rows_of(grad_out, conv.reverse)[:3],
        rows_of(grad_x, conv.reverse)[0],
        0 if grad_states is None else grad_states.data_ptr(),
        grad_weights.data_ptr(),
    )
    run_kernel(kernels, "backward", inputs, gradients, scratch_bytes=0)
    per_channel = unpack_channels(sum_parts(grad_weights), dim)  # (dim, 5)
    return (
        laid_out_as(grad_x, x),
        laid_out_as(per_channel[:, :width].flip(1), weight),
        None if bias is None else laid_out_as(per_channel[:, taps].contiguous(), bias),
        None if initial_states is None or grad_states is None else laid_out_as(grad_states, initial_states),
    )


def _inputs(kernels: Any, conv: Conv) -> tuple[Any, list[Any]]:
    """Return the kernels' `Inputs`, and the tensors whose memory they point to, to be kept alive."""
    batch, length, dim = conv.x.shape
    width, count = conv.weight.shape[1], kernels.TAPS
    x = float_rows(conv.x)
    taps = float_zeros(dim, count + 1)
    taps[:, :width] = conv.weight.flip(1)
    if conv.bias is not None:
        taps[:, count] = conv.bias
    weights = pack_channels(taps)  # (blocks, 5, 16)
    states = None if conv.initial_states is None else float_rows(conv.initial_states)
    seq_idx = None if conv.seq_idx is None else conv.seq_idx.contiguous()
    inputs = kernels.Inputs(
        batch,
        length,
        dim,
        width,
        int(conv.silu),
        -1 if conv.reverse else 1,
        *rows_of(x, conv.reverse)[:3],
        weights.data_ptr(),
        0 if seq_idx is None else rows_of(seq_idx, conv.reverse)[0],
        *((0, 0, 0) if states is None else rows_of(states)[:3]),
    )
    return inputs, [x, weights, states, seq_idx]

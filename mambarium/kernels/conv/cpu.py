"""The CPU backend of the causal convolution: what the numba kernels need around them.

Implements `ConvBackend`. float32 memory whose channels are adjacent is read in place; other inputs are
converted to it first.
"""

from typing import Any

from torch import Tensor

from mambarium.kernels.layout import (
    LANES,
    float_memory,
    float_rows,
    float_zeros,
    laid_out_as,
    pack_channels,
    row_fields,
    sum_parts,
    unpack_channels,
)
from mambarium.kernels.numba_runtime import import_kernels, run_kernel

# The kernels work on as many taps as the widest convolution has.
TAPS = 4
_PARTS = 32
_KERNELS = "mambarium.kernels.conv.cpu_kernels"


def conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> Tensor:
    """See `ConvBackend.conv_forward`."""
    kernels = import_kernels(_KERNELS)
    inputs, _kept = _inputs(kernels, x, weight, bias, seq_idx, initial_states, silu, reverse)
    out = float_memory(*x.shape)
    run_kernel(kernels, "forward", inputs, row_fields("out", out, reverse)["out"], scratch_bytes=0)
    return laid_out_as(out, x)


def conv_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """See `ConvBackend.conv_backward`."""
    kernels = import_kernels(_KERNELS)
    inputs, _kept = _inputs(kernels, x, weight, bias, seq_idx, initial_states, silu, reverse)
    batch, _, dim = x.shape
    width = weight.shape[1]
    batch_parts = min(batch, _PARTS)
    grad_out = float_rows(grad_out)
    grad_x = float_memory(*x.shape)
    grad_states = None if initial_states is None else float_memory(*initial_states.shape)
    blocks = -(-dim // LANES)
    grad_weights = float_zeros(batch_parts, blocks, TAPS + 1, LANES)
    gradients = kernels.Gradients(
        batch_parts=batch_parts,
        **row_fields("out", grad_out, reverse),
        x=row_fields("x", grad_x, reverse)["x"],
        states=0 if grad_states is None else grad_states.data_ptr(),
        weights=grad_weights.data_ptr(),
    )
    run_kernel(kernels, "backward", inputs, gradients, scratch_bytes=0)
    per_channel = unpack_channels(sum_parts(grad_weights), dim)  # (dim, 5)
    return (
        laid_out_as(grad_x, x),
        laid_out_as(per_channel[:, :width].flip(1), weight),
        None if bias is None else laid_out_as(per_channel[:, TAPS].contiguous(), bias),
        None if initial_states is None or grad_states is None else laid_out_as(grad_states, initial_states),
    )


def _inputs(
    kernels: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Any, list[Tensor]]:
    """The kernels' `Inputs`, and the tensors whose memory they point to, to be kept alive."""
    batch, length, dim = x.shape
    width = weight.shape[1]
    x = float_rows(x)
    taps = float_zeros(dim, TAPS + 1)
    taps[:, :width] = weight.flip(1)
    if bias is not None:
        taps[:, TAPS] = bias
    weights = pack_channels(taps)  # (blocks, 5, 16)
    kept = [x, weights]
    states_fields = {"states": 0, "states_batch": 0, "states_time": 0}
    if initial_states is not None:
        states = float_rows(initial_states)
        states_fields = row_fields("states", states)
        kept.append(states)
    if seq_idx is not None:
        seq_idx = seq_idx.contiguous()
        kept.append(seq_idx)
    inputs = kernels.Inputs(
        batch=batch,
        length=length,
        dim=dim,
        width=width,
        silu=int(silu),
        direction=-1 if reverse else 1,
        **row_fields("x", x, reverse),
        weights=weights.data_ptr(),
        seq_idx=0 if seq_idx is None else row_fields("seq_idx", seq_idx, reverse)["seq_idx"],
        **states_fields,
    )
    return inputs, kept

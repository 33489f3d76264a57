"""The CPU backend of the selective scan's step: what the numba kernel needs around it.

float32 memory whose last axis is adjacent is read and updated in place; other tensors are converted to it first.
"""

import torch
from torch import Tensor

from mambarium.kernels.layout import float_memory, float_rows
from mambarium.kernels.numba_runtime import import_kernels, run_kernel
from mambarium.kernels.step.reference import check_places

_KERNELS = "mambarium.kernels.step.cpu_kernels"


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
) -> Tensor:
    """Update and read the states; shapes and errors are those of `selective_state_update_reference`."""
    batch, heads, dim = x.shape
    check_places(state_batch_indices, state.shape[0])
    # Cut to 32 bits, a place far below zero would be another one.
    places = None if state_batch_indices is None else state_batch_indices.clamp(min=-1).to(torch.int32).contiguous()
    kernels = import_kernels(_KERNELS)
    states = float_rows(state)
    inputs, steps, A, B, C = (float_rows(tensor) for tensor in (x, dt, A, B, C))
    D, z, dt_bias = (None if tensor is None else float_rows(tensor) for tensor in (D, z, dt_bias))
    out = float_memory(batch, heads, dim)
    arguments = (
        batch,
        heads,
        heads // B.shape[1],
        dim,
        state.shape[3],
        int(dt_softplus),
        *_rows(states, 3),
        *_rows(inputs, 2),
        *_rows(steps, 2),
        *_rows(z, 2),
        *_rows(A, 2),
        *_rows(B, 2),
        *_rows(C, 2),
        *_rows(D, 1),
        *_rows(dt_bias, 1),
        0 if places is None else places.data_ptr(),
        out.data_ptr(),
    )
    run_kernel(kernels, "step", kernels.Inputs(*arguments), scratch_bytes=kernels.SCRATCH_BYTES)
    if states is not state:
        state.copy_(states)
    return out.to(x.dtype)


def _rows(x: Tensor | None, strides: int) -> tuple[int, ...]:
    """Return where the kernel finds a tensor: its address, and the bytes along its first axes; zeros if it is None."""
    if x is None:
        return (0,) * (strides + 1)
    return (x.data_ptr(), *(4 * stride for stride in x.stride()[:strides]))

"""The CPU backend of the selective scan: what the numba kernels need around them.

float32 memory of any strides is read and written in place; other dtypes are converted. This module imports without
numba, which only the kernels need.
"""

from typing import Any

import torch
from torch import Tensor

from mambarium.kernels.layout import ABSENT, LANES, TILE, address_and_strides, float_memory
from mambarium.kernels.numba_runtime import import_kernels, run_kernel
from mambarium.kernels.scan.description import Gradients, Scan

# At least so many parts are there to be shared out among threads, where the tensors are large enough.
_PARTS = 32
_FORWARD = "mambarium.kernels.scan.cpu_forward"
_BACKWARD = "mambarium.kernels.scan.cpu_backward"


def checkpoint_shape(batch: int, length: int, dim: int, groups: int, d_state: int) -> tuple[int, ...]:
    """Return the shape of the checkpoints: the states at the start of every tile, by blocks of 16 channels."""
    blocks = groups * ((dim // groups + LANES - 1) // LANES)
    return batch, (length + TILE - 1) // TILE, blocks, d_state, LANES


def scan_forward(scan: Scan, out: Tensor, save_for_backward: bool) -> tuple[Tensor, Tensor]:
    """Scan, see `ScanBackend`."""
    kernels = import_kernels(_FORWARD)
    batch, _, dim, _, d_state = scan.sizes
    shape = checkpoint_shape(*scan.sizes)
    checkpoints = float_memory(*(shape if save_for_backward else (0,)))
    last_state = float_memory(batch, dim, d_state)
    blocks = shape[2] if scan.order is None else shape[2] // scan.B.shape[2]  # of one round
    channel_parts = min(blocks, -(-_PARTS // batch))
    scratch_bytes = kernels.scratch_bytes(d_state, _matrix_row(d_state), -(-blocks // channel_parts))
    inputs, _kept = _inputs(scan, checkpoints, scratch_bytes, 0)
    written = _float_memory_like(out)
    results = (channel_parts, *_sequence(scan, written), *_states(scan, scan.initial_state), *_states(scan, last_state))
    run_kernel(kernels, _entry("forward", scan), inputs, results, scratch_bytes=scratch_bytes)
    if written is not out:
        out.copy_(written)
    return last_state, checkpoints


def scan_backward(
    scan: Scan, grad_out: Tensor, grad_last_state: Tensor | None, checkpoints: Tensor, gradients: Gradients
) -> None:
    """Write the gradients of all inputs, see `ScanBackend`."""
    kernels = import_kernels(_BACKWARD)
    batch, length, dim, groups, d_state = scan.sizes
    blocks = checkpoint_shape(*scan.sizes)[2]
    rounds = 1 if scan.order is None else groups
    batch_parts = min(batch, _PARTS)
    channel_parts = min(blocks // groups, -(-_PARTS // (batch_parts * groups // rounds)))
    if scan.order is not None:
        # Each part of the channels has gradients of B and C of its own: for few channels and many states they would
        # take more memory than all else.
        channel_parts = min(channel_parts, max(4, dim // groups // (groups * d_state)))
    own_blocks = rounds * -(-(blocks // groups) // channel_parts)
    scratch_bytes = kernels.scratch_bytes(d_state, _matrix_row(d_state), own_blocks)
    shared_bytes = kernels.shared_bytes(batch, length, groups, blocks, d_state, (batch_parts, channel_parts))
    inputs, _kept = _inputs(scan, checkpoints, scratch_bytes, shared_bytes)
    grad_out = grad_out.float()
    memory: Any = (None if x is None else _float_memory_like(x) for x in gradients)
    written = Gradients(*memory)
    targets = (
        batch_parts,
        channel_parts,
        *_sequence(scan, grad_out),
        *_states(scan, grad_last_state),
        *_sequence(scan, written.u),
        *_sequence(scan, written.delta),
        *_sequence(scan, written.z),
        *_matrix(scan, written.B),
        *_matrix(scan, written.C),
        *_states(scan, written.A),
        *_per_channel(scan, written.D),
        *_per_channel(scan, written.delta_bias),
        *_states(scan, written.initial_state),
    )
    run_kernel(
        kernels, _entry("backward", scan), inputs, targets, scratch_bytes=scratch_bytes, shared_bytes=shared_bytes
    )
    for gradient, found in zip(gradients, written, strict=True):
        if gradient is not None and found is not None and found is not gradient:
            gradient.copy_(found)


def _entry(kernel: str, scan: Scan) -> str:
    return kernel if scan.order is None else f"{kernel}_in_order"


def _float_memory_like(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else torch.empty_like(x, dtype=torch.float32)


def _matrix_row(d_state: int) -> int:
    """Bytes of a row of states in scratch memory."""
    return -(-d_state // LANES) * LANES * 4


def _sequence(scan: Scan, x: Tensor | None) -> tuple[int, ...]:
    """Where the kernels find x, shaped as u, delta or the output; one group there stands for all of them."""
    if x is None:
        return ABSENT
    if x.dim() == 4:
        return address_and_strides(x, 1, 3, 0, x.stride(2) if x.shape[2] > 1 else 0)
    # With an order the output and its gradient are of all groups.
    group_dim = scan.A.shape[0] // scan.B.shape[2]
    return address_and_strides(x, 1, 2, 0, 0 if scan.order is not None else group_dim * x.stride(2), scan.reverse)


def _matrix(scan: Scan, x: Tensor | None) -> tuple[int, ...]:
    """Where the kernels find x, shaped as B."""
    return ABSENT if x is None else address_and_strides(x, 1, 3, 0, x.stride(2), scan.reverse)


def _states(scan: Scan, x: Tensor | None) -> tuple[int, ...]:
    """Where the kernels find x, (batch, dim, d_state) or (dim, d_state): its states are what they step through."""
    if x is None:
        return ABSENT
    group_dim = scan.A.shape[0] // scan.B.shape[2]
    return address_and_strides(x, -1, -2, 0 if x.dim() == 3 else None, group_dim * x.stride(-2))


def _per_channel(scan: Scan, x: Tensor | None) -> tuple[int, ...]:
    """Where the kernels find x, (dim,)."""
    return ABSENT if x is None else address_and_strides(x, 0, 0, None, scan.A.shape[0] // scan.B.shape[2] * x.stride(0))


def _inputs(scan: Scan, checkpoints: Tensor, scratch_bytes: int, shared_bytes: int) -> tuple[tuple[int, ...], Any]:
    """Return the values of the kernels' `Inputs`, and what holds the memory that they point to, to be kept alive."""
    batch, length, dim, groups, d_state = scan.sizes
    u, delta, B, C = scan.u.float(), scan.delta.float(), scan.B.float(), scan.C.float()
    z = None if scan.z is None else scan.z.float()
    reset = None if scan.reset is None else scan.reset.contiguous()
    blocks_per_group = -(-(dim // groups) // LANES)
    inputs = (
        batch,
        length,
        d_state,
        _matrix_row(d_state),
        dim // groups,
        blocks_per_group * groups,
        blocks_per_group,
        1 if scan.order is None else groups,
        int(scan.delta_softplus),
        -1 if scan.reverse else 1,
        scratch_bytes,
        shared_bytes,
        0 if scan.order is None else scan.order.positions.data_ptr(),
        0 if reset is None else reset.data_ptr() + (length - 1 if scan.reverse else 0),
        checkpoints.data_ptr() if checkpoints.numel() else 0,
        *_sequence(scan, u),
        *_sequence(scan, delta),
        *_sequence(scan, z),
        *_matrix(scan, B),
        *_matrix(scan, C),
        *_states(scan, scan.A),
        *_per_channel(scan, scan.D),
        *_per_channel(scan, scan.delta_bias),
    )
    return inputs, (u, delta, B, C, z, reset)

"""The CPU backend of the selective scan: what the numba kernels need around them.

float32 memory whose channels are adjacent is read in place; other inputs are converted to it first. This module imports
without numba, which only the kernels need.
"""

from typing import Any

from torch import Tensor

from mambarium.kernels.layout import (
    LANES,
    TILE,
    float_memory,
    float_rows,
    float_zeros,
    pack_channels,
    rows_of,
    sum_parts,
    unpack_channels,
)
from mambarium.kernels.numba_runtime import import_kernels, run_kernel
from mambarium.kernels.scan.description import Gradients, Scan

# At least so many parts are there to be shared out among threads, where the tensors are large enough.
_PARTS = 32
_LOG2_E = 1.4426950408889634
_NO_ROWS = (0, 0, 0, 0)
_FORWARD = "mambarium.kernels.scan.cpu_forward"
_BACKWARD = "mambarium.kernels.scan.cpu_backward"


def checkpoint_shape(batch: int, length: int, dim: int, groups: int, d_state: int) -> tuple[int, ...]:
    """Return the shape of the checkpoints: the states at the start of every tile, by blocks of 16 channels."""
    blocks = groups * ((dim // groups + LANES - 1) // LANES)
    return batch, (length + TILE - 1) // TILE, blocks, d_state, LANES


def scan_forward(scan: Scan, save_for_backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Scan, see `ScanBackend`."""
    kernels = import_kernels(_FORWARD)
    batch, length, dim, groups, _ = scan.sizes
    checkpoints = float_memory(*(checkpoint_shape(*scan.sizes) if save_for_backward else (0,)))
    packed_A = pack_channels(scan.A, groups)  # (blocks, d_state, 16)
    if scan.initial_state is None:
        states = float_zeros(batch, *packed_A.shape)
    else:
        states = pack_channels(scan.initial_state, groups)
    inputs, _kept = _inputs(kernels, scan, packed_A, checkpoints)
    out = float_memory(batch, length, dim if scan.order is None else dim // groups)
    results = kernels.Results(
        min(inputs.blocks // inputs.rounds, -(-_PARTS // batch)), *_group_rows(scan, out), states.data_ptr()
    )
    run_kernel(kernels, _entry("forward", scan), inputs, results, scratch_bytes=inputs.scratch_bytes)
    return out, unpack_channels(states, dim, groups), checkpoints


def scan_backward(scan: Scan, grad_out: Tensor, grad_last_state: Tensor | None, checkpoints: Tensor) -> Gradients:
    """Compute the gradients of all inputs, see `ScanBackend`."""
    kernels = import_kernels(_BACKWARD)
    batch, length, dim, groups, d_state = scan.sizes
    packed_A = pack_channels(scan.A, groups)
    inputs, _kept = _inputs(kernels, scan, packed_A, checkpoints)
    batch_parts = min(batch, _PARTS)
    channel_parts = min(inputs.blocks_per_group, -(-_PARTS // (batch_parts * groups // inputs.rounds)))
    if scan.order is not None:
        # Each part of the channels has gradients of B and C of its own: for few channels and many states they would
        # take more memory than all else.
        channel_parts = min(channel_parts, max(4, dim // groups // (groups * d_state)))
    grad_out = float_rows(grad_out)
    if grad_last_state is None:
        states = float_zeros(batch, *packed_A.shape)
    else:
        states = pack_channels(grad_last_state.float(), groups)
    grad_u, grad_delta = float_memory(*scan.u.shape), float_memory(*scan.delta.shape)
    grad_z = None if scan.z is None else float_memory(*scan.z.shape)
    grad_B, grad_C = (float_memory(channel_parts * batch, length, groups, d_state) for _ in range(2))
    grad_A, grad_D, grad_bias = (float_zeros(batch_parts, inputs.blocks, n, LANES) for n in (d_state, 1, 1))
    gradients = kernels.Gradients(
        batch_parts,
        channel_parts,
        *_group_rows(scan, grad_out),
        *_group_rows(scan, grad_u),
        *_group_rows(scan, grad_delta),
        0 if grad_z is None else _group_rows(scan, grad_z)[0],
        *rows_of(grad_B, scan.reverse),
        rows_of(grad_C, scan.reverse)[0],
        packed_A.data_ptr(),
        grad_A.data_ptr(),
        grad_D.data_ptr(),
        grad_bias.data_ptr(),
        states.data_ptr(),
    )
    run_kernel(kernels, _entry("backward", scan), inputs, gradients, scratch_bytes=inputs.scratch_bytes)
    return Gradients(
        grad_u,
        grad_delta,
        unpack_channels(sum_parts(grad_A), dim, groups),
        sum_parts(grad_B.view(channel_parts, *scan.B.shape)),
        sum_parts(grad_C.view(channel_parts, *scan.C.shape)),
        None if scan.D is None else unpack_channels(sum_parts(grad_D), dim, groups),
        grad_z,
        None if scan.delta_bias is None else unpack_channels(sum_parts(grad_bias), dim, groups),
        None if scan.initial_state is None else unpack_channels(states, dim, groups),
    )


def _entry(kernel: str, scan: Scan) -> str:
    return kernel if scan.order is None else f"{kernel}_in_order"


def _group_rows(scan: Scan, x: Tensor) -> tuple[int, int, int, int]:
    """Where the kernels find the rows of x, shaped as u or as the output."""
    return rows_of(x, scan.reverse, scan.A.shape[0] // scan.B.shape[2] if scan.order is None else 0)


def _inputs(kernels: Any, scan: Scan, packed_A: Tensor, checkpoints: Tensor) -> tuple[Any, list[Any]]:
    """Return the kernels' `Inputs`, and what holds the memory that they point to, to be kept alive."""
    batch, length, dim, groups, d_state = scan.sizes
    u, delta, B, C = float_rows(scan.u), float_rows(scan.delta), float_rows(scan.B), float_rows(scan.C)
    z = None if scan.z is None else float_rows(scan.z)
    reset = None if scan.reset is None else scan.reset.contiguous()
    coefficients = packed_A * _LOG2_E
    blocks = packed_A.shape[0]
    skip, bias = (
        float_zeros(blocks, LANES) if x is None else pack_channels(x[:, None], groups)
        for x in (scan.D, scan.delta_bias)
    )
    inputs = kernels.Inputs(
        batch,
        length,
        d_state,
        dim // groups,
        blocks,
        blocks // groups,
        1 if scan.order is None else groups,
        int(scan.delta_softplus),
        -1 if scan.reverse else 1,
        0 if scan.order is None else scan.order.positions.data_ptr(),
        *_group_rows(scan, u),
        *_group_rows(scan, delta),
        *(_NO_ROWS if z is None else _group_rows(scan, z)),
        *rows_of(B, scan.reverse),
        *rows_of(C, scan.reverse),
        coefficients.data_ptr(),
        skip.data_ptr(),
        bias.data_ptr(),
        0 if reset is None else reset.data_ptr() + (length - 1 if scan.reverse else 0),
        checkpoints.data_ptr() if checkpoints.numel() else 0,
        kernels.SCRATCH_BYTES + (0 if scan.order is None else 2 * 4 * TILE * d_state),
    )
    return inputs, [u, delta, B, C, z, reset, coefficients, skip, bias, scan.order]

"""The CPU backend of the selective scan: what the numba kernels need around them.

Implements `ScanBackend`. float32 memory whose channels are adjacent is read in place; other inputs are
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

# Steps between two checkpoints; the kernels work tile by tile too.
TILE = 32
# At least so many parts are there to be shared out among threads, where the tensors are large enough.
_PARTS = 32
_LOG2_E = 1.4426950408889634
_FORWARD = "mambarium.kernels.scan.cpu_forward"
_BACKWARD = "mambarium.kernels.scan.cpu_backward"


def checkpoint_shape(batch: int, length: int, dim: int, d_state: int, groups: int) -> tuple[int, ...]:
    """Shape of the checkpoints: the states at the start of every tile, by blocks of 16 channels."""
    blocks = groups * ((dim // groups + LANES - 1) // LANES)
    return batch, (length + TILE - 1) // TILE, blocks, d_state, LANES


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    save_for_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ScanBackend.scan_forward`."""
    kernels = import_kernels(_FORWARD)
    batch, length, dim = u.shape
    d_state, groups = A.shape[1], B.shape[2]
    shape = checkpoint_shape(batch, length, dim, d_state, groups) if save_for_backward else (0,)
    checkpoints = float_memory(*shape)
    out = float_memory(batch, length, dim)
    packed_A = pack_channels(A, groups)  # (blocks, d_state, 16)
    states = float_zeros(batch, *packed_A.shape) if initial_state is None else pack_channels(initial_state, groups)
    inputs, _kept = _inputs(u, delta, packed_A, B, C, D, z, delta_bias, reset, delta_softplus, reverse, checkpoints)
    run_kernel(
        kernels,
        "forward",
        inputs,
        min(inputs.blocks, -(-_PARTS // batch)),
        row_fields("out", out, reverse)["out"],
        states.data_ptr(),
        scratch_bytes=kernels.SCRATCH_BYTES,
    )
    return laid_out_as(out, u), unpack_channels(states, dim, groups), checkpoints


def scan_backward(
    grad_out: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """See `ScanBackend.scan_backward`."""
    kernels = import_kernels(_BACKWARD)
    batch, length, dim = u.shape
    d_state, groups = A.shape[1], B.shape[2]
    packed_A = pack_channels(A, groups)
    inputs, _kept = _inputs(u, delta, packed_A, B, C, D, z, delta_bias, reset, delta_softplus, reverse, checkpoints)
    batch_parts = min(batch, _PARTS)
    channel_parts = min(inputs.blocks_per_group, -(-_PARTS // (batch_parts * groups)))
    grad_out = float_rows(grad_out)
    states = pack_channels(grad_last_state.float(), groups)
    grad_u = float_memory(batch, length, dim)
    grad_delta = float_memory(batch, length, dim)
    grad_z = None if z is None else float_memory(batch, length, dim)
    grad_B = float_memory(channel_parts, batch, length, groups, d_state)
    grad_C = float_memory(channel_parts, batch, length, groups, d_state)
    grad_A = float_zeros(batch_parts, inputs.blocks, d_state, LANES)
    grad_D = float_zeros(batch_parts, inputs.blocks, 1, LANES)
    grad_bias = float_zeros(batch_parts, inputs.blocks, 1, LANES)
    results = {"u": grad_u, "delta": grad_delta, "z": grad_z, "B": grad_B[0], "C": grad_C[0]}
    gradients = kernels.Gradients(
        batch_parts=batch_parts,
        channel_parts=channel_parts,
        **row_fields("out", grad_out, reverse),
        A=packed_A.data_ptr(),
        **{name: 0 if x is None else row_fields(name, x, reverse)[name] for name, x in results.items()},
        grad_A=grad_A.data_ptr(),
        grad_skip=grad_D.data_ptr(),
        grad_bias=grad_bias.data_ptr(),
        state=states.data_ptr(),
    )
    run_kernel(kernels, "backward", inputs, gradients, scratch_bytes=kernels.SCRATCH_BYTES)
    return (
        laid_out_as(grad_u, u),
        laid_out_as(grad_delta, delta),
        laid_out_as(unpack_channels(sum_parts(grad_A), dim, groups), A),
        laid_out_as(sum_parts(grad_B), B),
        laid_out_as(sum_parts(grad_C), C),
        None if D is None else laid_out_as(unpack_channels(sum_parts(grad_D), dim, groups).squeeze(-1), D),
        None if z is None or grad_z is None else laid_out_as(grad_z, z),
        None
        if delta_bias is None
        else laid_out_as(unpack_channels(sum_parts(grad_bias), dim, groups).squeeze(-1), delta_bias),
        None if initial_state is None else laid_out_as(unpack_channels(states, dim, groups), initial_state),
    )


def _inputs(
    u: Tensor,
    delta: Tensor,
    packed_A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[Any, list[Tensor]]:
    """The kernels' `Inputs`, and the tensors whose memory they point to, to be kept alive."""
    from mambarium.kernels.scan.cpu_tiles import Inputs

    batch, length, dim = u.shape
    groups = B.shape[2]
    u, delta, B, C = (float_rows(x) for x in (u, delta, B, C))
    coefficients = packed_A * _LOG2_E
    blocks, d_state = packed_A.shape[:2]
    skip, bias = (
        float_zeros(blocks, LANES) if x is None else pack_channels(x[:, None], groups) for x in (D, delta_bias)
    )
    kept = [u, delta, B, C, coefficients, skip, bias]
    z_fields = {"z": 0, "z_batch": 0, "z_time": 0}
    if z is not None:
        z = float_rows(z)
        z_fields = row_fields("z", z, reverse)
        kept.append(z)
    if reset is not None:
        reset = reset.contiguous()
        kept.append(reset)
    inputs = Inputs(
        batch=batch,
        length=length,
        d_state=d_state,
        group_dim=dim // groups,
        blocks=blocks,
        blocks_per_group=blocks // groups,
        delta_softplus=int(delta_softplus),
        direction=-1 if reverse else 1,
        **row_fields("u", u, reverse),
        **row_fields("delta", delta, reverse),
        **z_fields,
        **row_fields("B", B, reverse),
        B_group=4 * B.stride(2),
        **row_fields("C", C, reverse),
        C_group=4 * C.stride(2),
        coefficients=coefficients.data_ptr(),
        skip=skip.data_ptr(),
        bias=bias.data_ptr(),
        reset=0 if reset is None else row_fields("reset", reset, reverse)["reset"],
        checkpoints=checkpoints.data_ptr() if checkpoints.numel() else 0,
    )
    return inputs, kept

"""The CPU backend of the grid scan: what the numba kernels need around them.

Tensors are channel-last views with any strides: u (batch, height, width, 1 or routes, dim), with 1 shared by all
routes; delta (batch, height, width, routes, dim); B, C (batch, height, width, routes, d_state), each float32,
bfloat16 or float16, not necessarily the same; A (routes, dim, d_state), D, delta_bias (routes, dim) float32. float32
memory whose channels are adjacent is read in place; other inputs are converted to it first. This module imports
without numba, which only the kernels need.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.kernels.layout import (
    LANES,
    float_memory,
    float_rows,
    float_zeros,
    laid_out_as,
    pack_channels,
    sum_parts,
    unpack_channels,
)
from mambarium.kernels.numba_runtime import import_kernels, run_kernel

# Steps between two checkpoints; the kernels work tile by tile too.
TILE = 32
_PARTS = 32
_LOG2_E = 1.4426950408889634
_FORWARD = "mambarium.kernels.grid.cpu_forward"
_BACKWARD = "mambarium.kernels.grid.cpu_backward"


def checkpoint_shape(batch: int, length: int, routes: int, dim: int, d_state: int) -> tuple[int, ...]:
    """Shape of the checkpoints of a grid of `length` positions (sizes may be symbolic): the states at the start of
    every tile of a route, by blocks of 16 channels."""
    return batch, routes, (length + TILE - 1) // TILE, (dim + LANES - 1) // LANES, d_state, LANES


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[Route],
    delta_softplus: bool,
    save_for_backward: bool,
) -> tuple[Tensor, Tensor]:
    """Returns out and checkpoints.

    out: (batch, height, width, dim), u's dtype, strides of `torch.empty_like(u[:, :, :, 0])`. checkpoints: float32,
    contiguous, of `checkpoint_shape`, or of shape (0,) without save_for_backward.
    """
    kernels = import_kernels(_FORWARD)
    batch, height, width = u.shape[:3]
    shape = checkpoint_shape(batch, height * width, *A.shape) if save_for_backward else (0,)
    checkpoints = float_memory(*shape)
    out = float_memory(batch, height, width, u.shape[4])
    inputs, _kept = _inputs(u, delta, A, B, C, D, delta_bias, routes, delta_softplus, checkpoints)
    scratch_bytes = kernels.scratch_bytes(inputs.d_state)
    run_kernel(kernels, "forward", inputs, out.data_ptr(), scratch_bytes, scratch_bytes=scratch_bytes)
    return laid_out_as(out, u.select(3, 0)), checkpoints


def scan_backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[Route],
    delta_softplus: bool,
    checkpoints: Tensor,
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of u, delta, A, B, C, D, delta_bias, None for absent inputs.

    Each has its input's dtype and shape, and the strides of `torch.empty_like(input)`. grad_out may be expanded
    (strides of zero) and of any float dtype.
    """
    kernels = import_kernels(_BACKWARD)
    inputs, _kept = _inputs(u, delta, A, B, C, D, delta_bias, routes, delta_softplus, checkpoints)
    batch, dim, d_state = inputs.batch, inputs.dim, inputs.d_state
    batch_parts = min(batch, _PARTS)
    # Each part of the channels has gradients of B and C of its own: for few channels and many states they would
    # take more memory than all else.
    channel_parts = min(inputs.blocks, -(-_PARTS // batch_parts), max(4, dim // (len(routes) * d_state)))
    grad_out = float_rows(grad_out.flatten(1, 2))
    plain_A = pack_channels(A)
    grad_u = float_memory(*u.shape)
    grad_delta = float_memory(*delta.shape)
    grad_B = float_memory(channel_parts, *B.shape)
    grad_C = float_memory(channel_parts, *C.shape)
    parameters = (batch_parts, len(routes), inputs.blocks)
    grad_A = float_zeros(*parameters, d_state, LANES)
    grad_D = float_zeros(*parameters, 1, LANES)
    grad_bias = float_zeros(*parameters, 1, LANES)
    gradients = kernels.Gradients(
        batch_parts=batch_parts,
        channel_parts=channel_parts,
        out=grad_out.data_ptr(),
        out_batch=4 * grad_out.stride(0),
        out_position=4 * grad_out.stride(1),
        A=plain_A.data_ptr(),
        u=grad_u.data_ptr(),
        delta=grad_delta.data_ptr(),
        B=grad_B.data_ptr(),
        C=grad_C.data_ptr(),
        grad_A=grad_A.data_ptr(),
        grad_skip=grad_D.data_ptr(),
        grad_bias=grad_bias.data_ptr(),
    )
    scratch_bytes = kernels.scratch_bytes(d_state)
    run_kernel(kernels, "backward", inputs, gradients, scratch_bytes, scratch_bytes=scratch_bytes)
    return (
        laid_out_as(grad_u, u),
        laid_out_as(grad_delta, delta),
        laid_out_as(unpack_channels(sum_parts(grad_A), dim), A),
        laid_out_as(sum_parts(grad_B), B),
        laid_out_as(sum_parts(grad_C), C),
        None if D is None else laid_out_as(unpack_channels(sum_parts(grad_D), dim).squeeze(-1), D),
        None if delta_bias is None else laid_out_as(unpack_channels(sum_parts(grad_bias), dim).squeeze(-1), delta_bias),
    )


def _inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[Route],
    delta_softplus: bool,
    checkpoints: Tensor,
) -> tuple[Any, list[Any]]:
    """The kernels' `Inputs`, and what holds the memory that they point to, to be kept alive."""
    from mambarium.kernels.grid.cpu_tiles import Inputs

    batch, height, width, u_routes, dim = u.shape
    order = visited_positions(tuple(routes), height, width)
    zeros = float_zeros(len(routes), dim)
    # (batch, position, route, channel or state)
    u, delta, B, C = (float_rows(x.flatten(1, 2)) for x in (u, delta, B, C))
    coefficients = pack_channels(A * _LOG2_E)  # (routes, blocks, d_state, 16)
    skip, bias = (pack_channels((zeros if x is None else x)[..., None]) for x in (D, delta_bias))
    inputs = Inputs(
        batch=batch,
        length=height * width,
        routes=len(routes),
        dim=dim,
        d_state=A.shape[2],
        blocks=coefficients.shape[1],
        delta_softplus=int(delta_softplus),
        order=order.ctypes.data,
        u=u.data_ptr(),
        u_batch=4 * u.stride(0),
        u_position=4 * u.stride(1),
        u_routes=u_routes,
        u_route=4 * u.stride(2) if u_routes > 1 else 0,
        delta=delta.data_ptr(),
        delta_batch=4 * delta.stride(0),
        delta_position=4 * delta.stride(1),
        delta_route=4 * delta.stride(2),
        B=B.data_ptr(),
        B_batch=4 * B.stride(0),
        B_position=4 * B.stride(1),
        B_route=4 * B.stride(2),
        C=C.data_ptr(),
        C_batch=4 * C.stride(0),
        C_position=4 * C.stride(1),
        C_route=4 * C.stride(2),
        coefficients=coefficients.data_ptr(),
        skip=skip.data_ptr(),
        bias=bias.data_ptr(),
        checkpoints=checkpoints.data_ptr() if checkpoints.numel() else 0,
    )
    return inputs, [order, u, delta, B, C, coefficients, skip, bias]

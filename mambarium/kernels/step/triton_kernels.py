"""Triton kernel of one step of the selective scan.

A program takes a block of channels of one head of one batch element, with all their states as one tile. Every state
is read and written once. Any strides are served, by 64-bit offsets.
"""

# Kernels are written in the language of Triton.
# mypy: ignore-errors

import triton
import triton.language as tl

from mambarium.kernels.scan.triton_kernels import LOG2E, sigmoid, softplus


@triton.jit
def state_update_kernel(
    state,
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    dt_bias,
    state_batch_indices,
    out,
    state_strides,
    x_strides,
    dt_strides,
    A_strides,
    B_strides,
    C_strides,
    D_strides,
    z_strides,
    dt_bias_strides,
    out_strides,
    heads,
    groups,
    dim,
    d_state,
    entries,
    DT_SOFTPLUS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_STATE: tl.constexpr,
):
    """Update BLOCK_DIM channels.

    Strides: (batch, head, channel, state) of state; (batch, head, channel) of x, dt, z, out; (head, channel, state)
    of A; (batch, group, state) of B, C; (head, channel) of D, dt_bias.
    """
    blocks = tl.cdiv(dim, BLOCK_DIM)
    program = tl.program_id(0)
    batch = (program // (blocks * heads)).to(tl.int64)
    head = ((program // blocks) % heads).to(tl.int64)
    group = head // (heads // groups)
    channels = ((program % blocks) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)).to(tl.int64)
    states = tl.arange(0, BLOCK_STATE).to(tl.int64)
    known = channels < dim
    entry = batch
    active = batch >= 0
    if state_batch_indices is not None:
        entry = tl.load(state_batch_indices + batch).to(tl.int64)
        active = (entry >= 0) & (entry < entries)
    tile = (known & active)[:, None] & (states < d_state)[None, :]

    x_row = tl.load(x + batch * x_strides[0] + head * x_strides[1] + channels * x_strides[2], mask=known, other=0.0)
    x_row = x_row.to(tl.float32)
    dt_row = dt + batch * dt_strides[0] + head * dt_strides[1] + channels * dt_strides[2]
    step = tl.load(dt_row, mask=known, other=0.0).to(tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + head * dt_bias_strides[0] + channels * dt_bias_strides[1], mask=known, other=0.0)
        step += bias.to(tl.float32)
    if DT_SOFTPLUS:
        step = softplus(step)

    A_tile = A + head * A_strides[0] + channels[:, None] * A_strides[1] + states[None, :] * A_strides[2]
    a = tl.load(A_tile, mask=tile, other=0.0).to(tl.float32)
    B_row = B + batch * B_strides[0] + group * B_strides[1] + states * B_strides[2]
    b = tl.load(B_row, mask=states < d_state, other=0.0).to(tl.float32)
    C_row = C + batch * C_strides[0] + group * C_strides[1] + states * C_strides[2]
    c = tl.load(C_row, mask=states < d_state, other=0.0).to(tl.float32)

    places = state + entry * state_strides[0] + head * state_strides[1]
    places += channels[:, None] * state_strides[2] + states[None, :] * state_strides[3]
    h = tl.load(places, mask=tile, other=0.0).to(tl.float32)
    h = tl.exp2(step[:, None] * (a * LOG2E)) * h + (step * x_row)[:, None] * b[None, :]
    tl.store(places, h.to(state.dtype.element_ty), mask=tile)

    # The padding of a tile may hold NaN where x does.
    y = tl.sum(tl.where(tile, h * c[None, :], 0.0), axis=1)
    if D is not None:
        skip = tl.load(D + head * D_strides[0] + channels * D_strides[1], mask=known, other=0.0)
        y += skip.to(tl.float32) * x_row
    if z is not None:
        z_row = z + batch * z_strides[0] + head * z_strides[1] + channels * z_strides[2]
        gate = tl.load(z_row, mask=known, other=0.0).to(tl.float32)
        y *= gate * sigmoid(gate)
    y = tl.where(active, y, 0.0)
    out_row = out + batch * out_strides[0] + head * out_strides[1] + channels * out_strides[2]
    tl.store(out_row, y.to(out.dtype.element_ty), mask=known)

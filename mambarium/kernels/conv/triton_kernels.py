"""Triton kernels of the causal depthwise convolution.

A program takes a block of positions and channels of one batch element. The shifted blocks that the taps need
overlap, so all but the first read come out of the cache. Any strides are served, by 64-bit offsets.
"""

# Kernels are written in the language of Triton, whose tuples grow in loops and know no unpacking.
# mypy: ignore-errors

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * -LOG2E))


@triton.jit
def locate(positions_count, dim, BLOCK_TIME: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Row of partial sums, batch element, positions and channels of this program."""
    dim_blocks = tl.cdiv(dim, BLOCK_DIM)
    time_blocks = tl.cdiv(positions_count, BLOCK_TIME)
    program = tl.program_id(0)
    part = (program // dim_blocks).to(tl.int64)
    batch = part // time_blocks
    positions = (part % time_blocks) * BLOCK_TIME + tl.arange(0, BLOCK_TIME)
    channels = ((program % dim_blocks) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)).to(tl.int64)
    return part, batch, positions.to(tl.int64), channels


@triton.jit
def load_inputs(
    x,
    initial_states,
    batch,
    positions,
    channels,
    x_strides,
    initial_strides,
    length,
    dim,
    WIDTH: tl.constexpr,
):
    """Return the inputs at positions from 1 - WIDTH on, (positions, channels), zero where there are none."""
    known = (channels < dim)[None, :]
    inside = (positions >= 0) & (positions < length)
    offsets = positions[:, None] * x_strides[1] + channels[None, :] * x_strides[2]
    values = tl.load(x + batch * x_strides[0] + offsets, mask=inside[:, None] & known, other=0.0).to(tl.float32)
    if initial_states is not None:
        before = (positions < 0) & (positions > -WIDTH)
        offsets = (positions + WIDTH - 1)[:, None] * initial_strides[1] + channels[None, :] * initial_strides[2]
        pointers = initial_states + batch * initial_strides[0] + offsets
        values += tl.load(pointers, mask=before[:, None] & known, other=0.0).to(tl.float32)
    return values


@triton.jit
def load_documents(seq_idx, batch, positions, strides, length):
    """Return the document of each position; those outside the sequence belong to that of the nearest one."""
    nearest = tl.minimum(tl.maximum(positions, 0), length - 1)
    return tl.load(seq_idx + batch * strides[0] + nearest * strides[1])


@triton.jit
def load_taps(weight, channels, dim, WIDTH: tl.constexpr):
    taps = ()
    for k in tl.static_range(WIDTH):
        taps += (tl.load(weight + channels * WIDTH + k, mask=channels < dim, other=0.0)[None, :],)
    return taps


@triton.jit(do_not_specialize=["length"])
def conv_forward_kernel(
    x,
    weight,
    bias,
    seq_idx,
    initial_states,
    out,
    x_strides,
    seq_idx_strides,
    initial_strides,
    out_strides,
    length,
    dim,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_TIME: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """out[t] = activation(bias + sum over k of weight[k] * x[t - (WIDTH - 1) + k]).

    Strides: (batch, time, channel) of x, initial_states, out; (batch, time) of seq_idx.
    """
    _, batch, positions, channels = locate(length, dim, BLOCK_TIME, BLOCK_DIM)
    taps = load_taps(weight, channels, dim, WIDTH)
    total = tl.zeros((BLOCK_TIME, BLOCK_DIM), tl.float32)
    if bias is not None:
        total += tl.load(bias + channels, mask=channels < dim, other=0.0)[None, :]
    if seq_idx is not None:
        document = load_documents(seq_idx, batch, positions, seq_idx_strides, length)
    for k in tl.static_range(WIDTH):
        shifted = positions + (k - (WIDTH - 1))
        values = load_inputs(
            x, initial_states, batch, shifted, channels, x_strides, initial_strides, length, dim, WIDTH
        )
        if seq_idx is not None:
            same = load_documents(seq_idx, batch, shifted, seq_idx_strides, length) == document
            values = tl.where(same[:, None], values, 0.0)
        total += taps[k] * values
    if SILU:
        total *= sigmoid(total)
    offsets = positions[:, None] * out_strides[1] + channels[None, :] * out_strides[2]
    mask = (positions < length)[:, None] & (channels < dim)[None, :]
    tl.store(out + batch * out_strides[0] + offsets, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["length"])
def conv_backward_kernel(
    grad_out,
    x,
    weight,
    bias,
    seq_idx,
    initial_states,
    grad_x,
    grad_initial_states,
    weight_parts,
    grad_out_strides,
    x_strides,
    seq_idx_strides,
    initial_strides,
    grad_x_strides,
    grad_initial_strides,
    length,
    dim,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_TIME: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Gradients of a block of inputs, and the block's share of those of weight and bias.

    Input s feeds the sums at s to s + WIDTH - 1, whose slopes are recomputed. With initial states positions
    start at 1 - WIDTH. weight_parts: (batch and time block, WIDTH + 1, dim) float32, a row per tap, then one
    for the bias; a second stage sums them in a fixed order.
    """
    BEFORE: tl.constexpr = 0 if initial_states is None else WIDTH - 1
    part, batch, positions, channels = locate(length + BEFORE, dim, BLOCK_TIME, BLOCK_DIM)
    positions -= BEFORE
    known = (channels < dim)[None, :]
    taps = load_taps(weight, channels, dim, WIDTH)

    # Item m: position s - (WIDTH - 1) + m.
    values = ()
    documents = ()
    for m in tl.static_range(2 * WIDTH - 1):
        shifted = positions + (m - (WIDTH - 1))
        values += (
            load_inputs(x, initial_states, batch, shifted, channels, x_strides, initial_strides, length, dim, WIDTH),
        )
        if seq_idx is not None:
            documents += (load_documents(seq_idx, batch, shifted, seq_idx_strides, length),)

    grad = tl.zeros((BLOCK_TIME, BLOCK_DIM), tl.float32)
    for j in tl.static_range(WIDTH):
        target = positions + j
        inside = (target >= 0) & (target < length)
        offsets = target[:, None] * grad_out_strides[1] + channels[None, :] * grad_out_strides[2]
        slope = tl.load(grad_out + batch * grad_out_strides[0] + offsets, mask=inside[:, None] & known, other=0.0).to(
            tl.float32
        )
        if SILU:
            total = tl.zeros((BLOCK_TIME, BLOCK_DIM), tl.float32)
            if bias is not None:
                total += tl.load(bias + channels, mask=channels < dim, other=0.0)[None, :]
            for k in tl.static_range(WIDTH):
                value = values[j + k]
                if seq_idx is not None:
                    value = tl.where((documents[j + k] == documents[j + WIDTH - 1])[:, None], value, 0.0)
                total += taps[k] * value
            s = sigmoid(total)
            slope *= s * (1.0 + total * (1.0 - s))
            slope = tl.where(inside[:, None], slope, 0.0)
        reached = slope
        if seq_idx is not None:
            reached = tl.where((documents[j + WIDTH - 1] == documents[WIDTH - 1])[:, None], slope, 0.0)
        grad += taps[WIDTH - 1 - j] * reached
        if j == 0:
            row = weight_parts + part * (WIDTH + 1) * dim + channels
            for k in tl.static_range(WIDTH):
                value = values[k]
                if seq_idx is not None:
                    value = tl.where((documents[k] == documents[WIDTH - 1])[:, None], value, 0.0)
                tl.store(row + k * dim, tl.sum(slope * value, axis=0), mask=channels < dim)
            tl.store(row + WIDTH * dim, tl.sum(slope, axis=0), mask=channels < dim)

    offsets = positions[:, None] * grad_x_strides[1] + channels[None, :] * grad_x_strides[2]
    mask = ((positions >= 0) & (positions < length))[:, None] & known
    tl.store(grad_x + batch * grad_x_strides[0] + offsets, grad.to(grad_x.dtype.element_ty), mask=mask)
    if initial_states is not None:
        rows = (positions + WIDTH - 1)[:, None]
        offsets = rows * grad_initial_strides[1] + channels[None, :] * grad_initial_strides[2]
        pointers = grad_initial_states + batch * grad_initial_strides[0] + offsets
        tl.store(pointers, grad.to(grad_x.dtype.element_ty), mask=(positions < 0)[:, None] & known)

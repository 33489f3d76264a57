"""Backward of the selective scan for the CPU: tiles in reverse, see `cpu_tiles.py`.

A tile's states are computed again from its checkpoint, then the adjoint recurrence runs over them. Gradients
of B and C are summed over SPAN blocks in vectors before the lanes are added up.
"""

from typing import Any, NamedTuple

import numba
from numba import njit, prange

from mambarium.kernels.scan.cpu import TILE
from mambarium.kernels.scan.cpu_tiles import TILE_BYTES, Inputs, block_channels, is_reset, load_tile, scan_states
from mambarium.kernels.simd import (
    ROW_BYTES,
    add,
    dot_rows,
    fma,
    load,
    load_channels,
    load_spread,
    mul,
    repeat,
    sigmoid,
    silu_slope,
    size_in_bytes,
    store,
    store_channels,
    store_row_sums,
    zero_pair,
    zero_row,
)

SPAN = 4
SCRATCH_BYTES = (7 * SPAN + 4 * 2) * TILE_BYTES


class Gradients(NamedTuple):
    """The backward's incoming gradient, its outputs and how the work is cut.

    u, delta and z are (batch, length, dim) contiguous; B and C (channel_parts, batch, length, groups,
    d_state); their addresses are those of the first visit's row. A, skip and bias are one per-block array per
    batch part. `state` holds the gradient of the last state and becomes that of the initial state.
    """

    batch_parts: int
    channel_parts: int
    out: int
    out_batch: int
    out_time: int
    A: int
    u: int
    delta: int
    z: int
    B: int
    C: int
    grad_A: int
    grad_skip: int
    grad_bias: int
    state: int


@njit
def _load_gradient_tile(
    inputs: Inputs, gradients: Gradients, batch: int, block: int, start: int, steps: int, gradient_rows: int
) -> None:
    """Fills the gradient of y: that of out, times silu(z) where there is a gate."""
    channel, count = block_channels(inputs, block)
    out = gradients.out + batch * gradients.out_batch + start * gradients.out_time + 4 * channel
    z = inputs.z + batch * inputs.z_batch + start * inputs.z_time + 4 * channel
    for t in range(steps):
        gradient = load_channels(out + t * gradients.out_time, count)
        if inputs.z != 0:
            gate = load_channels(z + t * inputs.z_time, count)
            gradient = mul(gradient, mul(gate, sigmoid(gate)))
        store(gradient_rows + t * ROW_BYTES, gradient)


@njit
def _adjoint_states(
    zero: Any,
    steps: int,
    coefficients: int,
    carry: int,
    grad_coefficients: int,
    x_rows: int,
    step_rows: int,
    gradient_rows: int,
    input_rows: int,
    decay_rows: int,
    B: int,
    B_time: int,
    C: int,
    C_time: int,
    reset: int,
    reset_time: int,
    history: int,
    decays: int,
    grad_B: int,
    grad_C: int,
) -> None:
    """Adjoint recurrence of as many states as `zero` has rows over a tile, last step first.

    With G[t] the gradient of h[t] and w[t] = decay[t] * G[t], which is carried to h[t - 1]: adds the sums
    over states of G * B to input_rows, of w * h[t - 1] * A to decay_rows, and the blocks' parts to the
    gradients of A, B and C.
    """
    vector_bytes = size_in_bytes(zero)
    a = load(coefficients, zero)
    carried = load(carry, zero)
    grad_a = load(grad_coefficients, zero)
    for back in range(steps):
        t = steps - 1 - back
        row, vector = t * ROW_BYTES, t * vector_bytes
        step = repeat(load(step_rows + row, zero_row()), zero)
        step_x = mul(step, repeat(load(x_rows + row, zero_row()), zero))
        gradient = repeat(load(gradient_rows + row, zero_row()), zero)
        B_t = load_spread(B + t * B_time, zero)
        before = load(history + vector, zero)
        decay = load(decays + vector, zero)
        after = load(history + vector + vector_bytes, zero)
        if t + 1 < steps and is_reset(reset, (t + 1) * reset_time):
            after = fma(decay, before, mul(step_x, B_t))
        G = fma(gradient, load_spread(C + t * C_time, zero), carried)
        store(grad_C + vector, fma(gradient, after, load(grad_C + vector, zero)))
        store(grad_B + vector, fma(G, step_x, load(grad_B + vector, zero)))
        store(input_rows + row, dot_rows(G, B_t, load(input_rows + row, zero_row())))
        carried = mul(decay, G)
        product = mul(carried, before)
        store(decay_rows + row, dot_rows(product, a, load(decay_rows + row, zero_row())))
        grad_a = fma(product, step, grad_a)
        if is_reset(reset, t * reset_time):
            carried = zero
    store(carry, carried)
    store(grad_coefficients, grad_a)


@njit
def _store_gradient_tile(
    inputs: Inputs,
    gradients: Gradients,
    batch_part: int,
    batch: int,
    block: int,
    start: int,
    steps: int,
    x_rows: int,
    step_rows: int,
    y_rows: int,
    slope_rows: int,
    gradient_rows: int,
    input_rows: int,
    decay_rows: int,
) -> None:
    """Writes a tile's gradients of u, delta and z, and adds to those of D and delta_bias."""
    channel, count = block_channels(inputs, block)
    dim = inputs.group_dim * (inputs.blocks // inputs.blocks_per_group)
    target = 4 * ((batch * inputs.length + start * inputs.direction) * dim + channel)
    out = gradients.out + batch * gradients.out_batch + start * gradients.out_time + 4 * channel
    z = inputs.z + batch * inputs.z_batch + start * inputs.z_time + 4 * channel
    part = (batch_part * inputs.blocks + block) * ROW_BYTES
    skip = load(inputs.skip + block * ROW_BYTES, zero_row())
    grad_skip = load(gradients.grad_skip + part, zero_row())
    grad_bias = load(gradients.grad_bias + part, zero_row())
    for t in range(steps):
        row, position = t * ROW_BYTES, target + t * 4 * dim * inputs.direction
        x = load(x_rows + row, zero_row())
        gradient = load(gradient_rows + row, zero_row())
        through_input = load(input_rows + row, zero_row())
        grad_u = fma(through_input, load(step_rows + row, zero_row()), mul(skip, gradient))
        grad_step = fma(through_input, x, load(decay_rows + row, zero_row()))
        if inputs.delta_softplus:
            grad_step = mul(grad_step, load(slope_rows + row, zero_row()))
        grad_skip = fma(gradient, x, grad_skip)
        grad_bias = add(grad_step, grad_bias)
        store_channels(gradients.u + position, grad_u, count)
        store_channels(gradients.delta + position, grad_step, count)
        if inputs.z != 0:
            gate = load_channels(z + t * inputs.z_time, count)
            slope = silu_slope(gate, sigmoid(gate))
            incoming = load_channels(out + t * gradients.out_time, count)
            grad_z = mul(mul(incoming, load(y_rows + row, zero_row())), slope)
            store_channels(gradients.z + position, grad_z, count)
    store(gradients.grad_skip + part, grad_skip)
    store(gradients.grad_bias + part, grad_bias)


@njit
def _backward_states(
    zero: Any,
    inputs: Inputs,
    gradients: Gradients,
    batch_part: int,
    batch: int,
    first: int,
    last: int,
    n: int,
    start: int,
    steps: int,
    target: int,
    accumulate: bool,
    scratch: int,
) -> None:
    """Recomputes and differentiates states n and following, as many as `zero` has rows, of a span of blocks.

    `target` is the offset of the tile's rows in the gradients of B and C.
    """
    vector_bytes = size_in_bytes(zero)
    group = first // inputs.blocks_per_group
    groups = inputs.blocks // inputs.blocks_per_group
    tiles = (inputs.length + TILE - 1) // TILE
    block_states = inputs.d_state * ROW_BYTES
    B = inputs.B + batch * inputs.B_batch + start * inputs.B_time + group * inputs.B_group + 4 * n
    C = inputs.C + batch * inputs.C_batch + start * inputs.C_time + group * inputs.C_group + 4 * n
    reset = inputs.reset + batch * inputs.length + start * inputs.direction if inputs.reset != 0 else 0
    grad_B = scratch + 7 * SPAN * TILE_BYTES
    grad_C = grad_B + 2 * TILE_BYTES
    decays = grad_C + 2 * TILE_BYTES
    history = decays + 2 * TILE_BYTES
    # Both have room for a tile of pairs, as have decays; history has one more vector, the padding of its
    # tiles.
    for t in range(steps):
        store(grad_B + t * vector_bytes, zero)
        store(grad_C + t * vector_bytes, zero)
    for block in range(first, last):
        rows = scratch + (block - first) * 7 * TILE_BYTES
        states = block * block_states + n * ROW_BYTES
        checkpoint = (batch * tiles + start // TILE) * inputs.blocks * block_states + states
        carry = gradients.state + batch * inputs.blocks * block_states + states
        grad_a = gradients.grad_A + batch_part * inputs.blocks * block_states + states
        scan_states(
            zero,
            steps,
            inputs.coefficients + states,
            inputs.checkpoints + checkpoint,
            rows,
            rows + TILE_BYTES,
            rows + 2 * TILE_BYTES if inputs.z != 0 else 0,
            B,
            inputs.B_time,
            C,
            inputs.C_time,
            reset,
            inputs.direction,
            history,
            decays,
        )
        _adjoint_states(
            zero,
            steps,
            gradients.A + states,
            carry,
            grad_a,
            rows,
            rows + TILE_BYTES,
            rows + 4 * TILE_BYTES,
            rows + 5 * TILE_BYTES,
            rows + 6 * TILE_BYTES,
            B,
            inputs.B_time,
            C,
            inputs.C_time,
            reset,
            inputs.direction,
            history,
            decays,
            grad_B,
            grad_C,
        )
    step_bytes = 4 * groups * inputs.d_state * inputs.direction
    for t in range(steps):
        offset = target + t * step_bytes + 4 * (group * inputs.d_state + n)
        store_row_sums(gradients.B + offset, load(grad_B + t * vector_bytes, zero), accumulate)
        store_row_sums(gradients.C + offset, load(grad_C + t * vector_bytes, zero), accumulate)


@njit
def _backward_span(
    inputs: Inputs,
    gradients: Gradients,
    batch_part: int,
    channel_part: int,
    batch: int,
    first: int,
    last: int,
    accumulate: bool,
    scratch: int,
) -> None:
    """Backward of blocks first to last (at most SPAN, of one group) of one batch element."""
    groups = inputs.blocks // inputs.blocks_per_group
    tiles = (inputs.length + TILE - 1) // TILE
    d_state = inputs.d_state
    pairs = d_state - d_state % 2
    for back in range(tiles):
        start = (tiles - 1 - back) * TILE
        steps = min(TILE, inputs.length - start)
        for block in range(first, last):
            rows = scratch + (block - first) * 7 * TILE_BYTES
            load_tile(
                inputs,
                batch,
                block,
                start,
                steps,
                rows,
                rows + TILE_BYTES,
                rows + 2 * TILE_BYTES,
                rows + 3 * TILE_BYTES,
            )
            _load_gradient_tile(inputs, gradients, batch, block, start, steps, rows + 4 * TILE_BYTES)
            for t in range(steps):
                store(rows + 5 * TILE_BYTES + t * ROW_BYTES, zero_row())
                store(rows + 6 * TILE_BYTES + t * ROW_BYTES, zero_row())
        row = (channel_part * inputs.batch + batch) * inputs.length + start * inputs.direction
        target = 4 * row * groups * d_state
        for n in range(0, pairs, 2):
            _backward_states(
                zero_pair(),
                inputs,
                gradients,
                batch_part,
                batch,
                first,
                last,
                n,
                start,
                steps,
                target,
                accumulate,
                scratch,
            )
        for n in range(pairs, d_state):
            _backward_states(
                zero_row(),
                inputs,
                gradients,
                batch_part,
                batch,
                first,
                last,
                n,
                start,
                steps,
                target,
                accumulate,
                scratch,
            )
        for block in range(first, last):
            rows = scratch + (block - first) * 7 * TILE_BYTES
            _store_gradient_tile(
                inputs,
                gradients,
                batch_part,
                batch,
                block,
                start,
                steps,
                rows,
                rows + TILE_BYTES,
                rows + 2 * TILE_BYTES,
                rows + 3 * TILE_BYTES,
                rows + 4 * TILE_BYTES,
                rows + 5 * TILE_BYTES,
                rows + 6 * TILE_BYTES,
            )


@njit
def _backward_item(inputs: Inputs, gradients: Gradients, item: int, scratch: int) -> None:
    """Backward of one part of the batch and one part of a group's blocks."""
    groups = inputs.blocks // inputs.blocks_per_group
    channel_part = item % gradients.channel_parts
    group = item // gradients.channel_parts % groups
    batch_part = item // (gradients.channel_parts * groups)
    per_group = inputs.blocks_per_group
    first = group * per_group + per_group * channel_part // gradients.channel_parts
    last = group * per_group + per_group * (channel_part + 1) // gradients.channel_parts
    first_batch = inputs.batch * batch_part // gradients.batch_parts
    last_batch = inputs.batch * (batch_part + 1) // gradients.batch_parts
    for batch in range(first_batch, last_batch):
        for block in range(first, last, SPAN):
            _backward_span(
                inputs,
                gradients,
                batch_part,
                channel_part,
                batch,
                block,
                min(block + SPAN, last),
                block != first,
                scratch,
            )


@njit(parallel=True, nogil=True, cache=True)
def backward(inputs: Inputs, gradients: Gradients, scratch: int) -> None:
    """Writes the gradients; those that are sums over batch parts must be zero before."""
    groups = inputs.blocks // inputs.blocks_per_group
    for item in prange(gradients.batch_parts * groups * gradients.channel_parts):
        thread = scratch + numba.get_thread_id() * SCRATCH_BYTES
        _backward_item(inputs, gradients, item, thread)

"""Backward of the selective scan for the CPU: tiles in reverse, see `cpu_tiles.py`.

A tile's states are computed again from its checkpoint, then the adjoint recurrence runs over them.
"""

from typing import NamedTuple

import numba
from numba import njit, prange

from mambarium.kernels.cpu_states import (
    STATES_AT_ONCE,
    Adjoint,
    adjoint_scratch_bytes,
    adjoint_states,
    clear_rows,
    has_bounded_decays,
    recompute_states,
)
from mambarium.kernels.scan.cpu import TILE
from mambarium.kernels.scan.cpu_tiles import TILE_BYTES, Inputs, block_channels, load_tile, states_tile
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    ROW_BYTES,
    add,
    copy_floats,
    fma,
    load,
    load_channels,
    mul,
    prefetch,
    sigmoid,
    silu_slope,
    store,
    store_channels,
    zero_row,
)

ROWS_BYTES = 8 * TILE_BYTES
HISTORY_BYTES, DECAYS_BYTES, PARTIAL_BYTES, SUMS_BYTES, A_SUMS_BYTES = adjoint_scratch_bytes(TILE)
SCRATCH_BYTES = ROWS_BYTES + HISTORY_BYTES + DECAYS_BYTES + PARTIAL_BYTES + SUMS_BYTES + A_SUMS_BYTES


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
    out = gradients.out + batch * gradients.out_batch + start * gradients.out_time + FLOAT_BYTES * channel
    z = inputs.z + batch * inputs.z_batch + start * inputs.z_time + FLOAT_BYTES * channel
    for t in range(steps):
        prefetch(out + (t - TILE) * gradients.out_time)
        gradient = load_channels(out + t * gradients.out_time, count)
        if inputs.z != 0:
            gate = load_channels(z + t * inputs.z_time, count)
            gradient = mul(gradient, mul(gate, sigmoid(gate)))
        store(gradient_rows + t * ROW_BYTES, gradient)


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
    target = FLOAT_BYTES * ((batch * inputs.length + start * inputs.direction) * dim + channel)
    out = gradients.out + batch * gradients.out_batch + start * gradients.out_time + FLOAT_BYTES * channel
    z = inputs.z + batch * inputs.z_batch + start * inputs.z_time + FLOAT_BYTES * channel
    part = (batch_part * inputs.blocks + block) * ROW_BYTES
    skip = load(inputs.skip + block * ROW_BYTES)
    grad_skip, grad_bias = zero_row(), zero_row()
    for t in range(steps):
        row, position = t * ROW_BYTES, target + t * FLOAT_BYTES * dim * inputs.direction
        x = load(x_rows + row)
        gradient = load(gradient_rows + row)
        through_input = load(input_rows + row)
        grad_u = fma(through_input, load(step_rows + row), mul(skip, gradient))
        grad_step = fma(through_input, x, load(decay_rows + row))
        if inputs.delta_softplus:
            grad_step = mul(grad_step, load(slope_rows + row))
        grad_skip = fma(gradient, x, grad_skip)
        grad_bias = add(grad_step, grad_bias)
        store_channels(gradients.u + position, grad_u, count)
        store_channels(gradients.delta + position, grad_step, count)
        if inputs.z != 0:
            gate = load_channels(z + t * inputs.z_time, count)
            slope = silu_slope(gate, sigmoid(gate))
            incoming = load_channels(out + t * gradients.out_time, count)
            grad_z = mul(mul(incoming, load(y_rows + row)), slope)
            store_channels(gradients.z + position, grad_z, count)
    store(gradients.grad_skip + part, add(load(gradients.grad_skip + part), grad_skip))
    store(gradients.grad_bias + part, add(load(gradients.grad_bias + part), grad_bias))


@njit
def _store_matrix_gradient(
    inputs: Inputs, target: int, steps: int, first: int, last: int, sums: int, accumulate: bool
) -> None:
    """Writes a tile's gradient of states `first` to `last` of B or C; `target` is the row of the tile's first step."""
    groups = inputs.blocks // inputs.blocks_per_group
    step_bytes = FLOAT_BYTES * groups * inputs.d_state * inputs.direction
    count = last - first
    if step_bytes == FLOAT_BYTES * count:
        copy_floats(sums, target, steps * count, accumulate)
        return
    for t in range(steps):
        place = target + t * step_bytes + FLOAT_BYTES * first
        copy_floats(sums + t * count * FLOAT_BYTES, place, count, accumulate)


@njit
def _backward_tile(
    inputs: Inputs,
    gradients: Gradients,
    batch_part: int,
    channel_part: int,
    batch: int,
    block: int,
    tile: int,
    accumulate: bool,
    scratch: int,
) -> None:
    """Backward of one tile of a block of one batch element."""
    groups = inputs.blocks // inputs.blocks_per_group
    group = block // inputs.blocks_per_group
    tiles = (inputs.length + TILE - 1) // TILE
    d_state = inputs.d_state
    x_rows, step_rows, product_rows = scratch, scratch + TILE_BYTES, scratch + 2 * TILE_BYTES
    y_rows, slope_rows, gradient_rows = scratch + 3 * TILE_BYTES, scratch + 4 * TILE_BYTES, scratch + 5 * TILE_BYTES
    input_rows, decay_rows = scratch + 6 * TILE_BYTES, scratch + 7 * TILE_BYTES
    history = scratch + ROWS_BYTES
    decays = history + HISTORY_BYTES
    partial = decays + DECAYS_BYTES
    sums = partial + PARTIAL_BYTES
    states = block * d_state * ROW_BYTES
    batch_states = inputs.blocks * d_state * ROW_BYTES
    adjoint = Adjoint(
        gradient_rows,
        input_rows,
        decay_rows,
        gradients.state + batch * batch_states + states,
        gradients.A + states,
        gradients.grad_A + batch_part * batch_states + states,
        history,
        decays,
        partial,
        sums,
        sums + SUMS_BYTES,
    )
    start = tile * TILE
    steps = min(TILE, inputs.length - start)
    load_tile(inputs, batch, block, start, steps, x_rows, step_rows, product_rows, y_rows, slope_rows, -TILE)
    _load_gradient_tile(inputs, gradients, batch, block, start, steps, gradient_rows)
    clear_rows(input_rows, steps)
    clear_rows(decay_rows, steps)
    inner = states_tile(inputs, batch, block, start, steps, step_rows, product_rows, y_rows)
    checkpoint = inputs.checkpoints + (batch * tiles + tile) * batch_states + states
    row = (channel_part * inputs.batch + batch) * inputs.length + start * inputs.direction
    matrix = FLOAT_BYTES * (row * groups + group) * d_state
    bounded = has_bounded_decays(inner)
    for first in range(0, d_state, STATES_AT_ONCE):
        last = min(first + STATES_AT_ONCE, d_state)
        recompute_states(inner, adjoint, checkpoint, first, last, bounded, inputs.z != 0)
        _store_matrix_gradient(inputs, gradients.C + matrix, steps, first, last, adjoint.sums, accumulate)
        adjoint_states(inner, adjoint, first, last)
        _store_matrix_gradient(inputs, gradients.B + matrix, steps, first, last, adjoint.sums, accumulate)
    _store_gradient_tile(
        inputs,
        gradients,
        batch_part,
        batch,
        block,
        start,
        steps,
        x_rows,
        step_rows,
        y_rows,
        slope_rows,
        gradient_rows,
        input_rows,
        decay_rows,
    )


@njit
def _backward_item(inputs: Inputs, gradients: Gradients, item: int, scratch: int) -> None:
    """Backward of one part of the batch and one part of a group's blocks, which take turns at every tile."""
    tiles = (inputs.length + TILE - 1) // TILE
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
        for back in range(tiles):
            tile = tiles - 1 - back
            for block in range(first, last):
                _backward_tile(inputs, gradients, batch_part, channel_part, batch, block, tile, block > first, scratch)


@njit(parallel=True, nogil=True, cache=True)
def backward(inputs: Inputs, gradients: Gradients, scratch: int) -> None:
    """Writes the gradients; those that are sums over batch parts must be zero before."""
    groups = inputs.blocks // inputs.blocks_per_group
    for item in prange(gradients.batch_parts * groups * gradients.channel_parts):
        thread = scratch + numba.get_thread_id() * SCRATCH_BYTES
        _backward_item(inputs, gradients, item, thread)

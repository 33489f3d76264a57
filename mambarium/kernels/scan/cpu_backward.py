"""Backward of the selective scan for the CPU: tiles in reverse, see `cpu_tiles.py`.

A tile's states are computed again from its checkpoint, then the adjoint recurrence runs over them.
"""

from typing import Any, NamedTuple

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
from mambarium.kernels.layout import TILE
from mambarium.kernels.scan.cpu_tiles import (
    TILE_BYTES,
    Inputs,
    block_channels,
    group_order,
    load_matrices,
    load_tile,
    states_tile,
    upcoming,
    visited,
)
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

    u is (batch, length, dim), or as the input is with an order; delta and z (batch, length, dim); B and C
    (channel_parts * batch, length, groups, d_state); all contiguous, with the strides of `layout.rows_of`, those of z
    as of delta and those of C as of B. A, skip and bias are one per-block array per batch part. `state` holds the
    gradient of the last state and becomes that of the initial state.
    """

    batch_parts: int
    channel_parts: int
    out: int
    out_batch: int
    out_time: int
    out_group: int
    u: int
    u_batch: int
    u_time: int
    u_group: int
    delta: int
    delta_batch: int
    delta_time: int
    delta_group: int
    z: int
    B: int
    B_batch: int
    B_time: int
    B_group: int
    C: int
    A: int
    grad_A: int
    grad_skip: int
    grad_bias: int
    state: int


@njit
def _load_gradient_tile(
    inputs: Inputs, order: Any, gradients: Gradients, batch: int, block: int, start: int, steps: int, rows: int
) -> None:
    """Fill the gradient of y: that of out, times silu(z) where there is a gate."""
    group, channel, count = block_channels(inputs, block)
    own = group_order(order, group, inputs.length)
    out = gradients.out + batch * gradients.out_batch + group * gradients.out_group + FLOAT_BYTES * channel
    z = inputs.z + batch * inputs.z_batch + group * inputs.z_group + FLOAT_BYTES * channel
    for t in range(steps):
        prefetch(out + upcoming(own, start + t - TILE, inputs.length) * gradients.out_time)
        gradient = load_channels(out + visited(own, start + t) * gradients.out_time, count)
        if order is None and inputs.z != 0:
            gate = load_channels(z + (start + t) * inputs.z_time, count)
            gradient = mul(gradient, mul(gate, sigmoid(gate)))
        store(rows + t * ROW_BYTES, gradient)


@njit
def _store_gradient_tile(
    inputs: Inputs,
    order: Any,
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
    """Write a tile's gradients of u, delta and z, and add to those of D, delta_bias and a u that all groups share."""
    group, channel, count = block_channels(inputs, block)
    own = group_order(order, group, inputs.length)
    place = FLOAT_BYTES * channel
    grad_u_rows = gradients.u + batch * gradients.u_batch + group * gradients.u_group + place
    rows = batch * gradients.delta_batch + group * gradients.delta_group + place
    out = gradients.out + batch * gradients.out_batch + group * gradients.out_group + place
    z = inputs.z + batch * inputs.z_batch + group * inputs.z_group + place
    part = (batch_part * inputs.blocks + block) * ROW_BYTES
    skip = load(inputs.skip + block * ROW_BYTES)
    grad_skip, grad_bias = zero_row(), zero_row()
    adds = order is not None and gradients.u_group == 0 and group > 0
    for t in range(steps):
        row, position = t * ROW_BYTES, visited(own, start + t)
        x = load(x_rows + row)
        gradient = load(gradient_rows + row)
        through_input = load(input_rows + row)
        grad_u = fma(through_input, load(step_rows + row), mul(skip, gradient))
        grad_step = fma(through_input, x, load(decay_rows + row))
        if inputs.delta_softplus:
            grad_step = mul(grad_step, load(slope_rows + row))
        grad_skip = fma(gradient, x, grad_skip)
        grad_bias = add(grad_step, grad_bias)
        target = grad_u_rows + position * gradients.u_time
        if adds:
            grad_u = add(grad_u, load_channels(target, count))
        store_channels(target, grad_u, count)
        store_channels(gradients.delta + rows + position * gradients.delta_time, grad_step, count)
        if order is None and inputs.z != 0:
            gate = load_channels(z + position * inputs.z_time, count)
            slope = silu_slope(gate, sigmoid(gate))
            incoming = load_channels(out + position * gradients.out_time, count)
            grad_z = mul(mul(incoming, load(y_rows + row)), slope)
            store_channels(gradients.z + rows + position * gradients.delta_time, grad_z, count)
    store(gradients.grad_skip + part, add(load(gradients.grad_skip + part), grad_skip))
    store(gradients.grad_bias + part, add(load(gradients.grad_bias + part), grad_bias))


@njit
def _store_matrix_gradient(
    inputs: Inputs,
    order: Any,
    gradients: Gradients,
    target: int,
    group: int,
    start: int,
    steps: int,
    first: int,
    last: int,
    sums: int,
    accumulate: bool,
) -> None:
    """Write a tile's gradient of states `first` to `last` of B or C; `target` is the row of the first step of all."""
    count = last - first
    if order is None and gradients.B_time == FLOAT_BYTES * count:
        copy_floats(sums, target + start * gradients.B_time, steps * count, accumulate)
        return
    own = group_order(order, group, inputs.length)
    for t in range(steps):
        place = target + visited(own, start + t) * gradients.B_time + FLOAT_BYTES * first
        copy_floats(sums + t * count * FLOAT_BYTES, place, count, accumulate)


@njit
def _backward_tile(
    inputs: Inputs,
    order: Any,
    gradients: Gradients,
    batch_part: int,
    channel_part: int,
    batch: int,
    block: int,
    tile: int,
    accumulate: bool,
    scratch: int,
) -> None:
    """Run the backward of one tile of a block of one batch element."""
    group = block // inputs.blocks_per_group
    tiles = (inputs.length + TILE - 1) // TILE
    d_state = inputs.d_state
    gated = order is None and inputs.z != 0
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
    y = y_rows if gated else 0
    load_tile(inputs, order, batch, block, start, steps, x_rows, step_rows, product_rows, y, slope_rows, -TILE)
    _load_gradient_tile(inputs, order, gradients, batch, block, start, steps, gradient_rows)
    clear_rows(input_rows, steps)
    clear_rows(decay_rows, steps)
    matrices = scratch + SCRATCH_BYTES
    inner = states_tile(inputs, order, batch, block, start, steps, step_rows, product_rows, y_rows, matrices)
    checkpoint = inputs.checkpoints + (batch * tiles + tile) * batch_states + states
    matrix = (channel_part * inputs.batch + batch) * gradients.B_batch + group * gradients.B_group
    bounded = has_bounded_decays(inner)
    for first in range(0, d_state, STATES_AT_ONCE):
        last = min(first + STATES_AT_ONCE, d_state)
        place = (group, start, steps, first, last, adjoint.sums, accumulate)
        recompute_states(inner, adjoint, checkpoint, first, last, bounded, gated)
        _store_matrix_gradient(inputs, order, gradients, gradients.C + matrix, *place)
        adjoint_states(inner, adjoint, first, last)
        _store_matrix_gradient(inputs, order, gradients, gradients.B + matrix, *place)
    _store_gradient_tile(
        inputs,
        order,
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
def _backward_item(inputs: Inputs, order: Any, gradients: Gradients, item: int, scratch: int) -> None:
    """Run the backward of one part of the batch and one part of a group's blocks, which take turns at every tile.

    With an order the part's groups follow one another.
    """
    tiles = (inputs.length + TILE - 1) // TILE
    per_group = inputs.blocks_per_group
    groups = inputs.blocks // per_group // inputs.rounds
    channel_part = item % gradients.channel_parts
    batch_part = item // (gradients.channel_parts * groups)
    first = per_group * channel_part // gradients.channel_parts
    last = per_group * (channel_part + 1) // gradients.channel_parts
    first_batch = inputs.batch * batch_part // gradients.batch_parts
    last_batch = inputs.batch * (batch_part + 1) // gradients.batch_parts
    for batch in range(first_batch, last_batch):
        for turn in range(inputs.rounds):
            group = item // gradients.channel_parts % groups + turn
            for back in range(tiles):
                tile = tiles - 1 - back
                load_matrices(inputs, order, batch, group, tile * TILE, scratch + SCRATCH_BYTES)
                for block in range(first, last):
                    _backward_tile(
                        inputs,
                        order,
                        gradients,
                        batch_part,
                        channel_part,
                        batch,
                        group * per_group + block,
                        tile,
                        block > first,
                        scratch,
                    )


@njit(parallel=True, nogil=True, cache=True)
def backward(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """Write the gradients, given the values of `Inputs` and `Gradients`; sums over batch parts must be zero before."""
    inputs, gradients = Inputs(*arguments), Gradients(*targets)
    groups = inputs.blocks // inputs.blocks_per_group // inputs.rounds
    for item in prange(gradients.batch_parts * groups * gradients.channel_parts):
        _backward_item(inputs, None, gradients, item, scratch + numba.get_thread_id() * inputs.scratch_bytes)


@njit(parallel=True, nogil=True, cache=True)
def backward_in_order(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """`backward` of a scan with an order."""
    inputs, gradients = Inputs(*arguments), Gradients(*targets)
    groups = inputs.blocks // inputs.blocks_per_group // inputs.rounds
    for item in prange(gradients.batch_parts * groups * gradients.channel_parts):
        _backward_item(inputs, inputs.order, gradients, item, scratch + numba.get_thread_id() * inputs.scratch_bytes)

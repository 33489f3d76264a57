"""Backward of the grid scan for the CPU: each route's tiles in reverse, see `cpu_tiles.py`.

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
from mambarium.kernels.grid.cpu import TILE
from mambarium.kernels.grid.cpu_tiles import (
    TILE_BYTES,
    Inputs,
    block_channels,
    load_matrices,
    load_tile,
    next_position,
    states_tile,
    tile_order,
)
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    ROW_BYTES,
    add,
    copy_floats,
    fma,
    load,
    load_channels,
    load_int,
    mul,
    prefetch,
    store,
    store_channels,
    zero_row,
)


class Gradients(NamedTuple):
    """The backward's incoming gradient, its outputs and how the work is cut.

    u is (batch, length, 1 or routes, dim) contiguous, delta (batch, length, routes, dim); B and C
    (channel_parts, batch, length, routes, d_state); A, skip and bias one per-block array per batch part.
    """

    batch_parts: int
    channel_parts: int
    out: int
    out_batch: int
    out_position: int
    A: int
    u: int
    delta: int
    B: int
    C: int
    grad_A: int
    grad_skip: int
    grad_bias: int


class Scratch(NamedTuple):
    """Addresses of a thread's scratch memory besides an `Adjoint`'s: rows per step, and a tile's B and C."""

    x_rows: int
    step_rows: int
    product_rows: int
    slope_rows: int
    gradient_rows: int
    input_rows: int
    decay_rows: int
    B_rows: int
    C_rows: int
    carry: int
    states: int


HISTORY_BYTES, DECAYS_BYTES, PARTIAL_BYTES, SUMS_BYTES, A_SUMS_BYTES = adjoint_scratch_bytes(TILE)


def scratch_bytes(d_state: int) -> int:
    """Scratch memory per thread."""
    rows = 7 * TILE_BYTES + 2 * FLOAT_BYTES * TILE * d_state + d_state * ROW_BYTES
    return rows + HISTORY_BYTES + DECAYS_BYTES + PARTIAL_BYTES + SUMS_BYTES + A_SUMS_BYTES


@njit
def _cut_scratch(scratch: int, d_state: int) -> Scratch:
    matrices = scratch + 7 * TILE_BYTES
    carry = matrices + 2 * FLOAT_BYTES * TILE * d_state
    return Scratch(
        scratch,
        scratch + TILE_BYTES,
        scratch + 2 * TILE_BYTES,
        scratch + 3 * TILE_BYTES,
        scratch + 4 * TILE_BYTES,
        scratch + 5 * TILE_BYTES,
        scratch + 6 * TILE_BYTES,
        matrices,
        matrices + FLOAT_BYTES * TILE * d_state,
        carry,
        carry + d_state * ROW_BYTES,
    )


@njit
def _load_gradient_tile(
    inputs: Inputs, gradients: Gradients, batch: int, route: int, block: int, start: int, steps: int, scratch: Scratch
) -> None:
    """Gathers the gradient of y and clears the sums over states."""
    count = block_channels(inputs, block)
    order = tile_order(inputs, route, start)
    out = gradients.out + batch * gradients.out_batch + block * ROW_BYTES
    for t in range(steps):
        row = t * ROW_BYTES
        prefetch(out + next_position(inputs, route, start + t - TILE) * gradients.out_position)
        position = load_int(order + 4 * t)
        store(scratch.gradient_rows + row, load_channels(out + position * gradients.out_position, count))
        store(scratch.input_rows + row, zero_row())
        store(scratch.decay_rows + row, zero_row())


@njit
def _store_gradient_tile(
    inputs: Inputs,
    gradients: Gradients,
    values: int,
    grad_values: int,
    batch: int,
    route: int,
    block: int,
    start: int,
    steps: int,
    scratch: Scratch,
) -> None:
    """Scatters a tile's gradients of u and delta, and adds to those of D and delta_bias.

    `values` and `grad_values` are the offsets of the block in D and delta_bias, and in their gradients.
    """
    count = block_channels(inputs, block)
    order = tile_order(inputs, route, start)
    shared = inputs.u_routes == 1
    first = 4 * batch * inputs.length * inputs.dim
    grad_u_rows = gradients.u + first * inputs.u_routes + block * ROW_BYTES
    if not shared:
        grad_u_rows += route * 4 * inputs.dim
    grad_delta_rows = gradients.delta + first * inputs.routes + route * 4 * inputs.dim + block * ROW_BYTES
    skip = load(inputs.skip + values)
    grad_skip, grad_bias = zero_row(), zero_row()
    for t in range(steps):
        row = t * ROW_BYTES
        position = load_int(order + 4 * t) * 4 * inputs.dim
        x = load(scratch.x_rows + row)
        gradient = load(scratch.gradient_rows + row)
        through_input = load(scratch.input_rows + row)
        grad_u = fma(through_input, load(scratch.step_rows + row), mul(skip, gradient))
        grad_step = fma(through_input, x, load(scratch.decay_rows + row))
        if inputs.delta_softplus:
            grad_step = mul(grad_step, load(scratch.slope_rows + row))
        grad_skip = fma(gradient, x, grad_skip)
        grad_bias = add(grad_step, grad_bias)
        target = grad_u_rows + position * inputs.u_routes
        if shared and route > 0:
            grad_u = add(grad_u, load_channels(target, count))
        store_channels(target, grad_u, count)
        store_channels(grad_delta_rows + position * inputs.routes, grad_step, count)
    store(gradients.grad_skip + grad_values, add(load(gradients.grad_skip + grad_values), grad_skip))
    store(gradients.grad_bias + grad_values, add(load(gradients.grad_bias + grad_values), grad_bias))


@njit
def _store_matrix_gradient(
    inputs: Inputs,
    target: int,
    channel_part: int,
    batch: int,
    route: int,
    start: int,
    steps: int,
    first: int,
    last: int,
    accumulate: bool,
    sums: int,
) -> None:
    """Scatters a tile's gradient of states `first` to `last` of B or C, sums over the block's channels."""
    order = tile_order(inputs, route, start)
    row_bytes = FLOAT_BYTES * (last - first)
    first_row = (channel_part * inputs.batch + batch) * inputs.length
    for t in range(steps):
        row = (first_row + load_int(order + 4 * t)) * inputs.routes + route
        place = target + FLOAT_BYTES * (row * inputs.d_state + first)
        copy_floats(sums + t * row_bytes, place, last - first, accumulate)


@njit
def _backward_route(
    inputs: Inputs,
    gradients: Gradients,
    batch_part: int,
    channel_part: int,
    batch: int,
    route: int,
    block: int,
    accumulate: bool,
    scratch: Scratch,
) -> None:
    """Backward of one route over one block of one batch element."""
    tiles = (inputs.length + TILE - 1) // TILE
    d_state = inputs.d_state
    place = route * inputs.blocks + block
    grad_place = batch_part * inputs.routes * inputs.blocks + place
    block_states = d_state * ROW_BYTES
    clear_rows(scratch.carry, d_state)
    decays = scratch.states + HISTORY_BYTES
    partial = decays + DECAYS_BYTES
    sums = partial + PARTIAL_BYTES
    adjoint = Adjoint(
        scratch.gradient_rows,
        scratch.input_rows,
        scratch.decay_rows,
        scratch.carry,
        gradients.A + place * block_states,
        gradients.grad_A + grad_place * block_states,
        scratch.states,
        decays,
        partial,
        sums,
        sums + SUMS_BYTES,
    )
    for back in range(tiles):
        tile = tiles - 1 - back
        start = tile * TILE
        steps = min(TILE, inputs.length - start)
        row = ((batch * inputs.routes + route) * tiles + tile) * inputs.blocks + block
        checkpoint = inputs.checkpoints + row * block_states
        load_matrices(inputs, batch, route, start, steps, scratch.B_rows, scratch.C_rows)
        load_tile(
            inputs,
            batch,
            route,
            block,
            start,
            steps,
            scratch.x_rows,
            scratch.step_rows,
            scratch.product_rows,
            0,
            scratch.slope_rows,
            -TILE,
        )
        _load_gradient_tile(inputs, gradients, batch, route, block, start, steps, scratch)
        inner = states_tile(
            inputs,
            route,
            block,
            steps,
            scratch.step_rows,
            scratch.product_rows,
            0,
            scratch.B_rows,
            scratch.C_rows,
        )
        bounded = has_bounded_decays(inner)
        for first in range(0, d_state, STATES_AT_ONCE):
            last = min(first + STATES_AT_ONCE, d_state)
            recompute_states(inner, adjoint, checkpoint, first, last, bounded, False)
            _store_matrix_gradient(
                inputs,
                gradients.C,
                channel_part,
                batch,
                route,
                start,
                steps,
                first,
                last,
                accumulate,
                adjoint.sums,
            )
            adjoint_states(inner, adjoint, first, last)
            _store_matrix_gradient(
                inputs,
                gradients.B,
                channel_part,
                batch,
                route,
                start,
                steps,
                first,
                last,
                accumulate,
                adjoint.sums,
            )
        _store_gradient_tile(
            inputs,
            gradients,
            place * ROW_BYTES,
            grad_place * ROW_BYTES,
            batch,
            route,
            block,
            start,
            steps,
            scratch,
        )


@njit(parallel=True, nogil=True, cache=True)
def backward(inputs: Inputs, gradients: Gradients, scratch_bytes: int, scratch: int) -> None:
    """Writes the gradients; those that are sums over batch parts must be zero before."""
    for item in prange(gradients.batch_parts * gradients.channel_parts):
        thread = _cut_scratch(scratch + numba.get_thread_id() * scratch_bytes, inputs.d_state)
        channel_part = item % gradients.channel_parts
        batch_part = item // gradients.channel_parts
        first = inputs.blocks * channel_part // gradients.channel_parts
        last = inputs.blocks * (channel_part + 1) // gradients.channel_parts
        first_batch = inputs.batch * batch_part // gradients.batch_parts
        last_batch = inputs.batch * (batch_part + 1) // gradients.batch_parts
        for batch in range(first_batch, last_batch):
            for block in range(first, last):
                for route in range(inputs.routes):
                    _backward_route(
                        inputs, gradients, batch_part, channel_part, batch, route, block, block > first, thread
                    )

"""Backward of the grid scan for the CPU: each route's tiles in reverse, see `cpu_tiles.py`.

A tile's states are computed again from its checkpoint, then the adjoint recurrence runs over them.
"""

from typing import Any, NamedTuple

import numba
from numba import njit, prange

from mambarium.kernels.grid.cpu import TILE
from mambarium.kernels.grid.cpu_tiles import (
    TILE_BYTES,
    Inputs,
    block_channels,
    load_matrices,
    load_tile,
    next_position,
    recompute_states,
    tile_order,
)
from mambarium.kernels.simd import (
    ROW_BYTES,
    STATES_AT_ONCE,
    add,
    copy_floats,
    dot_rows,
    fma,
    load,
    load_channels,
    load_int,
    load_spread,
    mul,
    prefetch,
    repeat,
    size_in_bytes,
    store,
    store_channels,
    store_row_sums,
    zero_row,
    zero_states,
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
    """Addresses of a thread's scratch memory: rows per step, values per state, and vectors per step and state."""

    x_rows: int
    step_rows: int
    product_rows: int
    slope_rows: int
    gradient_rows: int
    input_rows: int
    decay_rows: int
    B_vectors: int
    C_vectors: int
    decays: int
    history: int
    B_rows: int
    C_rows: int
    B_sums: int
    C_sums: int
    carry: int


def scratch_bytes(d_state: int) -> int:
    """Scratch memory per thread."""
    return 15 * TILE_BYTES + 4 * 4 * TILE * d_state + d_state * ROW_BYTES


@njit
def _cut_scratch(scratch: int, d_state: int) -> Scratch:
    vectors = scratch + 7 * TILE_BYTES
    matrices = vectors + 8 * TILE_BYTES
    matrix_bytes = 4 * TILE * d_state
    # Vectors have room for a tile of pairs; history has one more, in the padding.
    return Scratch(
        scratch,
        scratch + TILE_BYTES,
        scratch + 2 * TILE_BYTES,
        scratch + 3 * TILE_BYTES,
        scratch + 4 * TILE_BYTES,
        scratch + 5 * TILE_BYTES,
        scratch + 6 * TILE_BYTES,
        vectors,
        vectors + 2 * TILE_BYTES,
        vectors + 4 * TILE_BYTES,
        vectors + 6 * TILE_BYTES,
        matrices,
        matrices + matrix_bytes,
        matrices + 2 * matrix_bytes,
        matrices + 3 * matrix_bytes,
        matrices + 4 * matrix_bytes,
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
def _adjoint_states(
    zero: Any,
    steps: int,
    n: int,
    coefficients: int,
    grad_coefficients: int,
    matrix_bytes: int,
    scratch: Scratch,
) -> None:
    """Adjoint recurrence of state n and following, as many as `zero` has rows, over a tile, last step first.

    With G[t] the gradient of h[t] and w[t] = decay[t] * G[t], which is carried to h[t - 1]: adds the sums over
    states of G * B to input_rows and of w * h[t - 1] * A to decay_rows, adds to the gradient of A, and writes the
    channels' parts of the gradients of B and C, and their sums.
    """
    vector_bytes = size_in_bytes(zero)
    a = load(coefficients, zero)
    carry = scratch.carry + n * ROW_BYTES
    carried = load(carry, zero)
    grad_a = load(grad_coefficients, zero)
    after = load(scratch.history + steps * vector_bytes, zero)
    for back in range(steps):
        t = steps - 1 - back
        row, vector, matrix = t * ROW_BYTES, t * vector_bytes, t * matrix_bytes + 4 * n
        gradient = repeat(load(scratch.gradient_rows + row, zero_row()), zero)
        G = fma(gradient, load_spread(scratch.C_rows + matrix, zero), carried)
        store(scratch.C_vectors + vector, mul(gradient, after))
        store(scratch.B_vectors + vector, mul(G, repeat(load(scratch.product_rows + row, zero_row()), zero)))
        through_input = load(scratch.input_rows + row, zero_row())
        store(scratch.input_rows + row, dot_rows(G, load_spread(scratch.B_rows + matrix, zero), through_input))
        carried = mul(load(scratch.decays + vector, zero), G)
        before = load(scratch.history + vector, zero)
        product = mul(carried, before)
        store(scratch.decay_rows + row, dot_rows(product, a, load(scratch.decay_rows + row, zero_row())))
        grad_a = fma(product, repeat(load(scratch.step_rows + row, zero_row()), zero), grad_a)
        after = before
    store(carry, carried)
    store(grad_coefficients, grad_a)
    for t in range(steps):
        vector, matrix = t * vector_bytes, t * matrix_bytes + 4 * n
        store_row_sums(scratch.B_sums + matrix, load(scratch.B_vectors + vector, zero), False)
        store_row_sums(scratch.C_sums + matrix, load(scratch.C_vectors + vector, zero), False)


@njit
def _backward_states(
    zero: Any,
    inputs: Inputs,
    gradients: Gradients,
    n: int,
    steps: int,
    states: int,
    grad_states: int,
    checkpoint: int,
    scratch: Scratch,
) -> None:
    """Recomputes and differentiates state n and following of a tile, as many as `zero` has rows.

    `states`, `grad_states` and `checkpoint` are the offsets of the block's first state in the coefficients, their
    gradients and the checkpoints.
    """
    offset = n * ROW_BYTES
    recompute_states(
        zero,
        steps,
        inputs.coefficients + states + offset,
        inputs.checkpoints + checkpoint + offset,
        scratch.step_rows,
        scratch.product_rows,
        scratch.B_rows + 4 * n,
        4 * inputs.d_state,
        scratch.history,
        scratch.decays,
    )
    _adjoint_states(
        zero,
        steps,
        n,
        gradients.A + states + offset,
        gradients.grad_A + grad_states + offset,
        4 * inputs.d_state,
        scratch,
    )


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
    skip = load(inputs.skip + values, zero_row())
    grad_skip = load(gradients.grad_skip + grad_values, zero_row())
    grad_bias = load(gradients.grad_bias + grad_values, zero_row())
    for t in range(steps):
        row = t * ROW_BYTES
        position = load_int(order + 4 * t) * 4 * inputs.dim
        x = load(scratch.x_rows + row, zero_row())
        gradient = load(scratch.gradient_rows + row, zero_row())
        through_input = load(scratch.input_rows + row, zero_row())
        grad_u = fma(through_input, load(scratch.step_rows + row, zero_row()), mul(skip, gradient))
        grad_step = fma(through_input, x, load(scratch.decay_rows + row, zero_row()))
        if inputs.delta_softplus:
            grad_step = mul(grad_step, load(scratch.slope_rows + row, zero_row()))
        grad_skip = fma(gradient, x, grad_skip)
        grad_bias = add(grad_step, grad_bias)
        target = grad_u_rows + position * inputs.u_routes
        if shared and route > 0:
            grad_u = add(grad_u, load_channels(target, count))
        store_channels(target, grad_u, count)
        store_channels(grad_delta_rows + position * inputs.routes, grad_step, count)
    store(gradients.grad_skip + grad_values, grad_skip)
    store(gradients.grad_bias + grad_values, grad_bias)


@njit
def _store_matrix_gradients(
    inputs: Inputs,
    gradients: Gradients,
    channel_part: int,
    batch: int,
    route: int,
    start: int,
    steps: int,
    accumulate: bool,
    scratch: Scratch,
) -> None:
    """Scatters a tile's gradients of B and C, sums over the block's channels."""
    order = tile_order(inputs, route, start)
    matrix_bytes = 4 * inputs.d_state
    first = (channel_part * inputs.batch + batch) * inputs.length
    for t in range(steps):
        target = ((first + load_int(order + 4 * t)) * inputs.routes + route) * matrix_bytes
        copy_floats(scratch.B_sums + t * matrix_bytes, gradients.B + target, inputs.d_state, accumulate)
        copy_floats(scratch.C_sums + t * matrix_bytes, gradients.C + target, inputs.d_state, accumulate)


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
    grouped = d_state - d_state % STATES_AT_ONCE
    place = route * inputs.blocks + block
    grad_place = batch_part * inputs.routes * inputs.blocks + place
    block_states = d_state * ROW_BYTES
    for n in range(d_state):
        store(scratch.carry + n * ROW_BYTES, zero_row())
    for back in range(tiles):
        tile = tiles - 1 - back
        start = tile * TILE
        steps = min(TILE, inputs.length - start)
        checkpoint = (((batch * inputs.routes + route) * tiles + tile) * inputs.blocks + block) * block_states
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
        states, grad_states = place * block_states, grad_place * block_states
        for n in range(0, grouped, STATES_AT_ONCE):
            _backward_states(zero_states(), inputs, gradients, n, steps, states, grad_states, checkpoint, scratch)
        for n in range(grouped, d_state):
            _backward_states(zero_row(), inputs, gradients, n, steps, states, grad_states, checkpoint, scratch)
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
        _store_matrix_gradients(inputs, gradients, channel_part, batch, route, start, steps, accumulate, scratch)


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

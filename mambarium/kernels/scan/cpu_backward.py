"""Backward of the selective scan for the CPU: tiles in reverse, see `cpu_tiles.py`.

A tile's states are computed again from its checkpoint, then the adjoint recurrence runs over them. What several parts
of the work add to, the gradients of B and C for each part of the channels and those of A, D and delta_bias for each
part of the batch, is added up when all parts are done.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, prange

from mambarium.kernels.cpu_rows import (
    PAD_BYTES,
    Buffer,
    Channels,
    Rows,
    Steps,
    add_parts,
    load_rows,
    place_rows,
    read_rows,
    store_rows,
    write_rows,
)
from mambarium.kernels.cpu_states import (
    STATES_AT_ONCE,
    Adjoint,
    adjoint_scratch_bytes,
    adjoint_states,
    clear_rows,
    has_bounded_decays,
    recompute_states,
)
from mambarium.kernels.layout import LANES, TILE
from mambarium.kernels.scan.cpu_tiles import (
    TILE_BYTES,
    Inputs,
    all_states,
    block_channels,
    group_order,
    load_matrices,
    load_parameters,
    load_tile,
    named_inputs,
    states_tile,
)
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    ROW_BYTES,
    add,
    copy_floats,
    fma,
    load,
    mul,
    prefetch,
    sigmoid,
    silu_slope,
    store,
    zero_row,
)

_ROWS_BYTES = 10 * TILE_BYTES
_HISTORY_BYTES, _DECAYS_BYTES, _PARTIAL_BYTES, _SUMS_BYTES, _A_SUMS_BYTES = adjoint_scratch_bytes(TILE)
_STATES_BYTES = _HISTORY_BYTES + _DECAYS_BYTES + _PARTIAL_BYTES + _SUMS_BYTES + _A_SUMS_BYTES


class Gradients(NamedTuple):
    """The backward's incoming gradients, its outputs and how the work is cut; what is absent has address 0.

    The "time" of A and of the states is their axis of states.
    """

    batch_parts: int
    channel_parts: int
    out: Rows
    last_state: Rows
    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    A: Rows
    D: Rows
    bias: Rows
    initial_state: Rows


class Scratch(NamedTuple):
    """A thread's scratch memory: addresses of what has a fixed size, and of the blocks' rows."""

    pad: int
    rows: int
    states: int
    matrices: int
    blocks: int


def scratch_bytes(d_state: int, matrix_row: int, blocks: int) -> int:
    """Return the scratch memory of a thread that does so many blocks in turns."""
    fixed = PAD_BYTES + _ROWS_BYTES + _STATES_BYTES + 2 * TILE * matrix_row
    return fixed + blocks * (2 + 3 * d_state) * ROW_BYTES


def shared_bytes(batch: int, length: int, groups: int, blocks: int, d_state: int, parts: tuple[int, int]) -> int:
    """Return the memory of all parts' sums; `parts` are those of the batch and of a group's channels."""
    matrices = batch * groups * ((length + TILE - 1) // TILE) * parts[1] * 2 * TILE * d_state * FLOAT_BYTES
    # A row may be read beyond its last number.
    return matrices + parts[0] * blocks * (d_state + 2) * ROW_BYTES + ROW_BYTES


@njit
def _named_scratch(inputs: Inputs, scratch: int) -> Scratch:
    rows = scratch + PAD_BYTES
    states = rows + _ROWS_BYTES
    matrices = states + _STATES_BYTES
    return Scratch(scratch, rows, states, matrices, matrices + 2 * TILE * inputs.matrix_row)


@njit
def _matrix_parts(inputs: Inputs, gradients: Gradients, shared: int, batch: int, group: int, tile: int) -> int:
    """Return where the parts' gradients of a tile of B lie; behind each part's are those of C, (TILE, d_state) both."""
    tiles = (inputs.length + TILE - 1) // TILE
    groups = inputs.blocks // inputs.blocks_per_group
    place = ((batch * groups + group) * tiles + tile) * gradients.channel_parts
    return shared + place * 2 * TILE * inputs.d_state * FLOAT_BYTES


@njit
def _channel_sums(inputs: Inputs, gradients: Gradients, shared: int, batch_part: int, block: int) -> int:
    """Return where a part's sums of a block lie: rows for D, delta_bias and the states of A."""
    end = _matrix_parts(inputs, gradients, shared, inputs.batch, 0, 0)
    return end + (batch_part * inputs.blocks + block) * (2 + inputs.d_state) * ROW_BYTES


class Gate(NamedTuple):
    """Where a tile's rows of the gradient of out and of z are, and the bytes between rows of each."""

    incoming: int
    incoming_bytes: int
    gates: int
    gate_bytes: int


@njit(inline="always")
def _load_gradient_tile(
    inputs: Inputs, order: Any, gradients: Gradients, channels: Channels, which: Steps, rows: int, pad: int
) -> Gate:
    """Fill the gradient of y: that of out, times silu(z) where there is a gate."""
    visits = group_order(order, channels.group, inputs.length)
    gradient_rows, incoming_rows, gate_rows = rows + 5 * TILE_BYTES, rows + 8 * TILE_BYTES, rows + 9 * TILE_BYTES
    if order is not None or inputs.z.address == 0:
        load_rows(gradients.out, channels, visits, which, Buffer(gradient_rows, ROW_BYTES, pad, 0))
        return Gate(0, 0, 0, 0)
    incoming, incoming_bytes = read_rows(gradients.out, channels, None, which, Buffer(incoming_rows, ROW_BYTES, pad, 0))
    gates, gate_bytes = read_rows(inputs.z, channels, None, which, Buffer(gate_rows, ROW_BYTES, pad, 0))
    for t in range(which.number):
        prefetch(incoming + (t + which.ahead) * incoming_bytes)
        prefetch(gates + (t + which.ahead) * gate_bytes)
        gate = load(gates + t * gate_bytes)
        store(gradient_rows + t * ROW_BYTES, mul(load(incoming + t * incoming_bytes), mul(gate, sigmoid(gate))))
    return Gate(incoming, incoming_bytes, gates, gate_bytes)


@njit(inline="always")
def _store_gradient_tile(
    inputs: Inputs,
    order: Any,
    gradients: Gradients,
    channels: Channels,
    which: Steps,
    own: int,
    sums: int,
    xs: int,
    x_bytes: int,
    gate_of: Gate,
    rows: int,
    pad: int,
) -> None:
    """Write a tile's gradients of u, delta and z, and add to those of D, delta_bias and a u that all groups share."""
    step_rows, y_rows, slope_rows = rows + TILE_BYTES, rows + 3 * TILE_BYTES, rows + 4 * TILE_BYTES
    gradient_rows, input_rows, decay_rows = rows + 5 * TILE_BYTES, rows + 6 * TILE_BYTES, rows + 7 * TILE_BYTES
    visits = group_order(order, channels.group, inputs.length)
    adds = 0 if order is None or gradients.u.group != 0 else min(channels.group, 1)
    u, delta = Buffer(input_rows, ROW_BYTES, pad, adds), Buffer(decay_rows, ROW_BYTES, pad, 0)
    grad_u, u_bytes = place_rows(gradients.u, channels, visits, which, u)
    grad_delta, delta_bytes = place_rows(gradients.delta, channels, visits, which, delta)
    skip = load(own)
    grad_skip, grad_bias = zero_row(), zero_row()
    for t in range(which.number):
        row = t * ROW_BYTES
        x, gradient, through_input = load(xs + t * x_bytes), load(gradient_rows + row), load(input_rows + row)
        grad_step = fma(through_input, x, load(decay_rows + row))
        if inputs.delta_softplus:
            grad_step = mul(grad_step, load(slope_rows + row))
        store(grad_u + t * u_bytes, fma(through_input, load(step_rows + row), mul(skip, gradient)))
        store(grad_delta + t * delta_bytes, grad_step)
        grad_skip = fma(gradient, x, grad_skip)
        grad_bias = add(grad_step, grad_bias)
    store(sums, add(load(sums), grad_skip))
    store(sums + ROW_BYTES, add(load(sums + ROW_BYTES), grad_bias))
    write_rows(gradients.u, channels, visits, which, u, grad_u)
    write_rows(gradients.delta, channels, visits, which, delta, grad_delta)
    if gate_of.gates != 0:
        z = Buffer(rows + 9 * TILE_BYTES, ROW_BYTES, pad, 0)
        grad_z, z_bytes = place_rows(gradients.z, channels, visits, which, z)
        for t in range(which.number):
            gate = load(gate_of.gates + t * gate_of.gate_bytes)
            through_gate = mul(load(gate_of.incoming + t * gate_of.incoming_bytes), load(y_rows + t * ROW_BYTES))
            store(grad_z + t * z_bytes, mul(through_gate, silu_slope(gate, sigmoid(gate))))
        write_rows(gradients.z, channels, visits, which, z, grad_z)


@njit
def _store_matrix_gradient(
    target: int, d_state: int, steps: int, first: int, last: int, sums: int, accumulate: bool
) -> None:
    """Write a tile's gradient of states `first` to `last` of B or C to a part's sums, or add it to them."""
    count = last - first
    if count == d_state:
        copy_floats(sums, target, steps * count, accumulate)
        return
    for t in range(steps):
        place = target + (t * d_state + first) * FLOAT_BYTES
        copy_floats(sums + t * count * FLOAT_BYTES, place, count, accumulate)


@njit(inline="always")
def _backward_tile(
    inputs: Inputs,
    order: Any,
    gradients: Gradients,
    batch: int,
    block: int,
    tile: int,
    own: int,
    channel_sums: int,
    matrix_sums: int,
    accumulate: bool,
    scratch: Scratch,
) -> None:
    """Run the backward of one tile of a block of one batch element; `own` are skip, bias, coefficients, A, carry."""
    d_state, rows = inputs.d_state, scratch.rows
    gated = order is None and inputs.z.address != 0
    x_rows, step_rows, product_rows = rows, rows + TILE_BYTES, rows + 2 * TILE_BYTES
    y_rows, slope_rows, gradient_rows = rows + 3 * TILE_BYTES, rows + 4 * TILE_BYTES, rows + 5 * TILE_BYTES
    input_rows, decay_rows = rows + 6 * TILE_BYTES, rows + 7 * TILE_BYTES
    coefficients = own + 2 * ROW_BYTES
    A = coefficients + d_state * ROW_BYTES
    history = scratch.states
    decays = history + _HISTORY_BYTES
    partial = decays + _DECAYS_BYTES
    sums = partial + _PARTIAL_BYTES
    adjoint = Adjoint(
        gradient_rows,
        input_rows,
        decay_rows,
        A + d_state * ROW_BYTES,
        A,
        channel_sums + 2 * ROW_BYTES,
        history,
        decays,
        partial,
        sums,
        sums + _SUMS_BYTES,
    )
    start = tile * TILE
    steps = min(TILE, inputs.length - start)
    channels, which = block_channels(inputs, batch, block), Steps(start, steps, inputs.length, -TILE)
    skips, pad = y_rows if gated else 0, scratch.pad
    xs, x_bytes = load_tile(
        inputs, order, batch, block, which, own, x_rows, step_rows, product_rows, skips, slope_rows, pad
    )
    gate_of = _load_gradient_tile(inputs, order, gradients, channels, which, rows, pad)
    clear_rows(input_rows, steps)
    clear_rows(decay_rows, steps)
    inner = states_tile(
        inputs, order, batch, block, start, steps, coefficients, step_rows, product_rows, y_rows, scratch.matrices
    )
    tiles = (inputs.length + TILE - 1) // TILE
    checkpoint = inputs.checkpoints + ((batch * tiles + tile) * inputs.blocks + block) * d_state * ROW_BYTES
    grad_C = matrix_sums + TILE * d_state * FLOAT_BYTES
    bounded = has_bounded_decays(inner)
    for first in range(0, d_state, STATES_AT_ONCE):
        last = min(first + STATES_AT_ONCE, d_state)
        recompute_states(inner, adjoint, checkpoint, first, last, bounded, gated)
        _store_matrix_gradient(grad_C, d_state, steps, first, last, adjoint.sums, accumulate)
        adjoint_states(inner, adjoint, first, last)
        _store_matrix_gradient(matrix_sums, d_state, steps, first, last, adjoint.sums, accumulate)
    _store_gradient_tile(inputs, order, gradients, channels, which, own, channel_sums, xs, x_bytes, gate_of, rows, pad)


@njit(inline="always")
def _backward_item(inputs: Inputs, order: Any, gradients: Gradients, item: int, shared: int, memory: int) -> None:
    """Run the backward of one part of the batch and one part of a group's blocks, which take turns at every tile.

    With an order the part's groups follow one another.
    """
    scratch = _named_scratch(inputs, memory)
    d_state, parts = inputs.d_state, gradients.channel_parts
    tiles = (inputs.length + TILE - 1) // TILE
    per_group = inputs.blocks_per_group
    groups = inputs.blocks // per_group // inputs.rounds
    channel_part, batch_part = item % parts, item // (parts * groups)
    first, last = per_group * channel_part // parts, per_group * (channel_part + 1) // parts
    own_bytes = (2 + 3 * d_state) * ROW_BYTES
    for turn in range(inputs.rounds):
        for block in range(first, last):
            which = (item // parts % groups + turn) * per_group + block
            own = scratch.blocks + (turn * (last - first) + block - first) * own_bytes
            load_parameters(inputs, which, own, scratch.pad)
            A = Buffer(own + (2 + d_state) * ROW_BYTES, ROW_BYTES, scratch.pad, 0)
            load_rows(inputs.A, block_channels(inputs, 0, which), None, all_states(inputs), A)
            clear_rows(_channel_sums(inputs, gradients, shared, batch_part, which), 2 + d_state)
    first_batch = inputs.batch * batch_part // gradients.batch_parts
    last_batch = inputs.batch * (batch_part + 1) // gradients.batch_parts
    for batch in range(first_batch, last_batch):
        for turn in range(inputs.rounds):
            group = item // parts % groups + turn
            turn_blocks = scratch.blocks + turn * (last - first) * own_bytes
            carries = turn_blocks + (2 + 2 * d_state) * ROW_BYTES
            for block in range(first, last):
                channels = block_channels(inputs, batch, group * per_group + block)
                carry = Buffer(carries + (block - first) * own_bytes, ROW_BYTES, scratch.pad, 0)
                load_rows(gradients.last_state, channels, None, all_states(inputs), carry)
            for back in range(tiles):
                tile = tiles - 1 - back
                load_matrices(inputs, order, batch, group, tile * TILE, scratch.matrices, scratch.pad)
                part_sums = _matrix_parts(inputs, gradients, shared, batch, group, tile)
                part_sums += channel_part * 2 * TILE * d_state * FLOAT_BYTES
                for block in range(first, last):
                    which = group * per_group + block
                    _backward_tile(
                        inputs,
                        order,
                        gradients,
                        batch,
                        which,
                        tile,
                        turn_blocks + (block - first) * own_bytes,
                        _channel_sums(inputs, gradients, shared, batch_part, which),
                        part_sums,
                        block > first,
                        scratch,
                    )
            for block in range(first, last):
                channels = block_channels(inputs, batch, group * per_group + block)
                carry = Buffer(carries + (block - first) * own_bytes, ROW_BYTES, scratch.pad, 0)
                store_rows(gradients.initial_state, channels, None, all_states(inputs), carry)


@njit(inline="always")
def _add_matrix_parts(inputs: Inputs, order: Any, gradients: Gradients, item: int, shared: int, pad: int) -> None:
    """Add up what all parts of the channels have for a tile of B and C, and write the gradients."""
    tiles = (inputs.length + TILE - 1) // TILE
    groups = inputs.blocks // inputs.blocks_per_group
    batch, group, tile = item // (groups * tiles), item // tiles % groups, item % tiles
    d_state, start = inputs.d_state, tile * TILE
    steps = min(TILE, inputs.length - start)
    sums = _matrix_parts(inputs, gradients, shared, batch, group, tile)
    matrix = TILE * d_state * FLOAT_BYTES
    add_parts(sums, gradients.channel_parts, 2 * matrix, 2 * matrix)
    own_order = group_order(order, group, inputs.length)
    which = Steps(start, steps, inputs.length, 0)
    for first in range(0, d_state, LANES):
        channels, rows = Channels(batch, group, first, min(LANES, d_state - first)), sums + first * FLOAT_BYTES
        row = d_state * FLOAT_BYTES
        store_rows(gradients.B, channels, own_order, which, Buffer(rows, row, pad, 0))
        store_rows(gradients.C, channels, own_order, which, Buffer(rows + matrix, row, pad, 0))


@njit(inline="always")
def _add_channel_parts(inputs: Inputs, gradients: Gradients, block: int, shared: int, pad: int) -> None:
    """Add up what all parts of the batch have for a block of A, D and delta_bias, and write the gradients."""
    sums = _channel_sums(inputs, gradients, shared, 0, block)
    rows_bytes = (2 + inputs.d_state) * ROW_BYTES
    add_parts(sums, gradients.batch_parts, rows_bytes, inputs.blocks * rows_bytes)
    channels, single = block_channels(inputs, 0, block), Steps(0, 1, 1, 0)
    store_rows(gradients.D, channels, None, single, Buffer(sums, ROW_BYTES, pad, 0))
    store_rows(gradients.bias, channels, None, single, Buffer(sums + ROW_BYTES, ROW_BYTES, pad, 0))
    store_rows(gradients.A, channels, None, all_states(inputs), Buffer(sums + 2 * ROW_BYTES, ROW_BYTES, pad, 0))


@njit(inline="always")
def _add_up(inputs: Inputs, order: Any, gradients: Gradients, item: int, shared: int, pad: int) -> None:
    if item < inputs.blocks:
        _add_channel_parts(inputs, gradients, item, shared, pad)
    else:
        _add_matrix_parts(inputs, order, gradients, item - inputs.blocks, shared, pad)


@njit
def _named_gradients(values: Any) -> Gradients:
    return Gradients(
        values[0],
        values[1],
        Rows(*values[2:7]),
        Rows(*values[7:12]),
        Rows(*values[12:17]),
        Rows(*values[17:22]),
        Rows(*values[22:27]),
        Rows(*values[27:32]),
        Rows(*values[32:37]),
        Rows(*values[37:42]),
        Rows(*values[42:47]),
        Rows(*values[47:52]),
        Rows(*values[52:57]),
    )


@njit
def _count_items(arguments: tuple[int, ...], targets: tuple[int, ...], phase: int) -> int:
    inputs, gradients = named_inputs(arguments), _named_gradients(targets)
    groups, tiles = inputs.blocks // inputs.blocks_per_group, (inputs.length + TILE - 1) // TILE
    if phase == 0:
        return gradients.batch_parts * groups // inputs.rounds * gradients.channel_parts
    return inputs.blocks + inputs.batch * groups * tiles


@njit(inline="always")
def _run_item(inputs: Inputs, order: Any, gradients: Gradients, phase: int, item: int, scratch: int) -> None:
    """Run an item: in the first phase of the gradients, in the second of their sums."""
    own = scratch + inputs.shared_bytes + numba.get_thread_id() * inputs.scratch_bytes
    if phase == 0:
        _backward_item(inputs, order, gradients, item, scratch, own)
    else:
        _add_up(inputs, order, gradients, item, scratch, own)


@njit
def _run_plain_item(arguments: tuple[int, ...], targets: tuple[int, ...], phase: int, item: Any, scratch: int) -> None:
    _run_item(named_inputs(arguments), None, _named_gradients(targets), phase, item, scratch)


@njit
def _run_ordered_item(
    arguments: tuple[int, ...], targets: tuple[int, ...], phase: int, item: Any, scratch: int
) -> None:
    inputs = named_inputs(arguments)
    _run_item(inputs, inputs.order, _named_gradients(targets), phase, item, scratch)


@njit(parallel=True, nogil=True, cache=True)
def backward(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """Write the gradients, given the values of `Inputs` and `Gradients`."""
    for phase in range(2):
        for item in prange(_count_items(arguments, targets, phase)):
            _run_plain_item(arguments, targets, phase, np.int64(item), scratch)


@njit(parallel=True, nogil=True, cache=True)
def backward_in_order(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """`backward` of a scan with an order."""
    for phase in range(2):
        for item in prange(_count_items(arguments, targets, phase)):
            _run_ordered_item(arguments, targets, phase, np.int64(item), scratch)

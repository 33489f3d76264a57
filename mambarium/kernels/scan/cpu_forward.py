"""Forward of the selective scan for the CPU: tile after tile, see `cpu_tiles.py`.

It keeps the state at the start of every tile as a checkpoint, where one is asked for.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, prange

from mambarium.kernels.cpu_rows import (
    PAD_BYTES,
    Buffer,
    Rows,
    Steps,
    load_rows,
    place_rows,
    read_rows,
    store_rows,
    write_rows,
)
from mambarium.kernels.cpu_states import advance_states, copy_rows
from mambarium.kernels.layout import TILE
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
from mambarium.kernels.simd import ROW_BYTES, load, mul, prefetch, sigmoid, store

# The rows of a tile: inputs, or later the gates; steps, products and outputs.
_ROWS_BYTES = 4 * TILE_BYTES


class Results(NamedTuple):
    """Where the forward writes, and how its work is cut.

    The "time" of the states is their axis of states; without an initial one its address is 0.
    """

    channel_parts: int
    out: Rows
    initial_state: Rows
    last_state: Rows


class Scratch(NamedTuple):
    """A thread's scratch memory: addresses of what has a fixed size, and of the blocks' rows."""

    pad: int
    rows: int
    matrices: int
    blocks: int


def scratch_bytes(d_state: int, matrix_row: int, blocks: int) -> int:
    """Return the scratch memory of a thread that does so many blocks in turns."""
    return PAD_BYTES + _ROWS_BYTES + 2 * TILE * matrix_row + blocks * (2 + 2 * d_state) * ROW_BYTES


@njit
def _named_scratch(inputs: Inputs, scratch: int) -> Scratch:
    rows = scratch + PAD_BYTES
    matrices = rows + _ROWS_BYTES
    return Scratch(scratch, rows, matrices, matrices + 2 * TILE * inputs.matrix_row)


@njit(inline="always")
def _forward_tile(
    inputs: Inputs, order: Any, results: Results, batch: int, block: int, tile: int, own: int, scratch: Scratch
) -> None:
    """Run one tile of one block of one batch element, and advance its state; groups with an order add up.

    `own` are the block's rows: skip, bias, coefficients and state.
    """
    x_rows, step_rows = scratch.rows, scratch.rows + TILE_BYTES
    product_rows, y_rows = scratch.rows + 2 * TILE_BYTES, scratch.rows + 3 * TILE_BYTES
    coefficients = own + 2 * ROW_BYTES
    state = coefficients + inputs.d_state * ROW_BYTES
    start = tile * TILE
    steps = min(TILE, inputs.length - start)
    if inputs.checkpoints != 0:
        tiles = (inputs.length + TILE - 1) // TILE
        place = ((batch * tiles + tile) * inputs.blocks + block) * inputs.d_state
        copy_rows(state, inputs.checkpoints + place * ROW_BYTES, inputs.d_state)
    which = Steps(start, steps, inputs.length, TILE)
    load_tile(inputs, order, batch, block, which, own, x_rows, step_rows, product_rows, y_rows, 0, scratch.pad)
    inner = states_tile(
        inputs, order, batch, block, start, steps, coefficients, step_rows, product_rows, y_rows, scratch.matrices
    )
    advance_states(inner, state)
    channels = block_channels(inputs, batch, block)
    visits = group_order(order, channels.group, inputs.length)
    buffer = Buffer(y_rows, ROW_BYTES, scratch.pad, 0 if order is None else min(channels.group, 1))
    if order is None and inputs.z.address != 0:
        gates, gate_bytes = read_rows(inputs.z, channels, None, which, Buffer(x_rows, ROW_BYTES, scratch.pad, 0))
        outs, out_bytes = place_rows(results.out, channels, visits, which, buffer)
        for t in range(steps):
            prefetch(gates + (t + TILE) * gate_bytes)
            gate = load(gates + t * gate_bytes)
            store(outs + t * out_bytes, mul(load(y_rows + t * ROW_BYTES), mul(gate, sigmoid(gate))))
        write_rows(results.out, channels, visits, which, buffer, outs)
    else:
        store_rows(results.out, channels, visits, which, buffer)


@njit(inline="always")
def _forward_item(inputs: Inputs, order: Any, results: Results, item: int, memory: int) -> None:
    """Run one part of the blocks of one batch element, which take turns at every tile: what they read is adjacent."""
    scratch = _named_scratch(inputs, memory)
    batch, part = item // results.channel_parts, item % results.channel_parts
    blocks = inputs.blocks // inputs.rounds
    first, last = blocks * part // results.channel_parts, blocks * (part + 1) // results.channel_parts
    own_bytes = (2 + 2 * inputs.d_state) * ROW_BYTES
    for turn in range(inputs.rounds):
        for block in range(first, last):
            own, which = scratch.blocks + (block - first) * own_bytes, turn * blocks + block
            load_parameters(inputs, which, own, scratch.pad)
            state = Buffer(own + (2 + inputs.d_state) * ROW_BYTES, ROW_BYTES, scratch.pad, 0)
            load_rows(results.initial_state, block_channels(inputs, batch, which), None, all_states(inputs), state)
        for tile in range((inputs.length + TILE - 1) // TILE):
            matrices_of = -1
            for block in range(first, last):
                own, which = scratch.blocks + (block - first) * own_bytes, turn * blocks + block
                if which // inputs.blocks_per_group != matrices_of:
                    matrices_of = which // inputs.blocks_per_group
                    load_matrices(inputs, order, batch, matrices_of, tile * TILE, scratch.matrices, scratch.pad)
                _forward_tile(inputs, order, results, batch, which, tile, own, scratch)
        for block in range(first, last):
            own, which = scratch.blocks + (block - first) * own_bytes, turn * blocks + block
            state = Buffer(own + (2 + inputs.d_state) * ROW_BYTES, ROW_BYTES, scratch.pad, 0)
            store_rows(results.last_state, block_channels(inputs, batch, which), None, all_states(inputs), state)


@njit
def _named_results(values: tuple[int, ...]) -> Results:
    return Results(values[0], Rows(*values[1:6]), Rows(*values[6:11]), Rows(*values[11:16]))


@njit
def _forward_plain_item(arguments: tuple[int, ...], targets: tuple[int, ...], item: Any, scratch: int) -> None:
    inputs, results = named_inputs(arguments), _named_results(targets)
    _forward_item(inputs, None, results, item, scratch + numba.get_thread_id() * inputs.scratch_bytes)


@njit
def _forward_ordered_item(arguments: tuple[int, ...], targets: tuple[int, ...], item: Any, scratch: int) -> None:
    inputs, results = named_inputs(arguments), _named_results(targets)
    _forward_item(inputs, inputs.order, results, item, scratch + numba.get_thread_id() * inputs.scratch_bytes)


@njit(parallel=True, nogil=True, cache=True)
def forward(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """Write what `Results` says, given the values of `Inputs` and of `Results`."""
    for item in prange(named_inputs(arguments).batch * targets[0]):
        _forward_plain_item(arguments, targets, np.int64(item), scratch)


@njit(parallel=True, nogil=True, cache=True)
def forward_in_order(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """`forward` of a scan with an order."""
    for item in prange(named_inputs(arguments).batch * targets[0]):
        _forward_ordered_item(arguments, targets, np.int64(item), scratch)

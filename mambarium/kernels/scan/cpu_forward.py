"""Forward of the selective scan for the CPU: tile after tile, see `cpu_tiles.py`.

It keeps the state at the start of every tile as a checkpoint, where one is asked for.
"""

from typing import Any, NamedTuple

import numba
from numba import njit, prange

from mambarium.kernels.cpu_states import advance_states, copy_rows
from mambarium.kernels.layout import TILE
from mambarium.kernels.scan.cpu_tiles import (
    TILE_BYTES,
    Inputs,
    block_channels,
    group_order,
    load_matrices,
    load_tile,
    states_tile,
    visited,
)
from mambarium.kernels.simd import FLOAT_BYTES, ROW_BYTES, add, load, load_channels, mul, sigmoid, store_channels

SCRATCH_BYTES = 3 * TILE_BYTES


class Results(NamedTuple):
    """Where the forward writes, and how its work is cut.

    out is (batch, length, dim) contiguous and has the strides of `layout.rows_of`; its groups are one with an order.
    states (batch, blocks, d_state, 16) are the initial ones before, and the last ones after.
    """

    channel_parts: int
    out: int
    out_batch: int
    out_time: int
    out_group: int
    states: int


@njit
def _forward_tile(
    inputs: Inputs, order: Any, results: Results, batch: int, block: int, tile: int, scratch: int
) -> None:
    """Run one tile of one block of one batch element, and advance its state; groups with an order add up."""
    step_rows, product_rows, y_rows = scratch, scratch + TILE_BYTES, scratch + 2 * TILE_BYTES
    group, channel, count = block_channels(inputs, block)
    state = results.states + (batch * inputs.blocks + block) * inputs.d_state * ROW_BYTES
    start = tile * TILE
    steps = min(TILE, inputs.length - start)
    if inputs.checkpoints != 0:
        tiles = (inputs.length + TILE - 1) // TILE
        place = ((batch * tiles + tile) * inputs.blocks + block) * inputs.d_state
        copy_rows(state, inputs.checkpoints + place * ROW_BYTES, inputs.d_state)
    load_tile(inputs, order, batch, block, start, steps, 0, step_rows, product_rows, y_rows, 0, TILE)
    matrices = scratch + SCRATCH_BYTES
    advance_states(
        states_tile(inputs, order, batch, block, start, steps, step_rows, product_rows, y_rows, matrices), state
    )
    own = group_order(order, group, inputs.length)
    out = results.out + batch * results.out_batch + group * results.out_group + FLOAT_BYTES * channel
    z = inputs.z + batch * inputs.z_batch + group * inputs.z_group + FLOAT_BYTES * channel
    for t in range(steps):
        y = load(y_rows + t * ROW_BYTES)
        target = out + visited(own, start + t) * results.out_time
        if order is None:
            if inputs.z != 0:
                gate = load_channels(z + (start + t) * inputs.z_time, count)
                y = mul(y, mul(gate, sigmoid(gate)))
        elif group > 0:
            y = add(y, load_channels(target, count))
        store_channels(target, y, count)


@njit
def _forward_item(inputs: Inputs, order: Any, results: Results, item: int, scratch: int) -> None:
    """Run one part of the blocks of one batch element, which take turns at every tile: what they read is adjacent."""
    batch, part = item // results.channel_parts, item % results.channel_parts
    blocks = inputs.blocks // inputs.rounds
    first, last = blocks * part // results.channel_parts, blocks * (part + 1) // results.channel_parts
    for group in range(inputs.rounds):
        for tile in range((inputs.length + TILE - 1) // TILE):
            load_matrices(inputs, order, batch, group, tile * TILE, scratch + SCRATCH_BYTES)
            for block in range(group * blocks + first, group * blocks + last):
                _forward_tile(inputs, order, results, batch, block, tile, scratch)


@njit(parallel=True, nogil=True, cache=True)
def forward(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """Write what `Results` says, given the values of `Inputs` and of `Results`."""
    inputs, results = Inputs(*arguments), Results(*targets)
    for item in prange(inputs.batch * results.channel_parts):
        _forward_item(inputs, None, results, item, scratch + numba.get_thread_id() * inputs.scratch_bytes)


@njit(parallel=True, nogil=True, cache=True)
def forward_in_order(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """`forward` of a scan with an order."""
    inputs, results = Inputs(*arguments), Results(*targets)
    for item in prange(inputs.batch * results.channel_parts):
        _forward_item(inputs, inputs.order, results, item, scratch + numba.get_thread_id() * inputs.scratch_bytes)

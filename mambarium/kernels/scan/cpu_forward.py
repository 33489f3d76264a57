"""Forward of the selective scan for the CPU: tile after tile, see `cpu_tiles.py`.

It keeps the state at the start of every tile as a checkpoint, where one is asked for.
"""

import numba
from numba import njit, prange

from mambarium.kernels.cpu_states import advance_states, copy_rows
from mambarium.kernels.scan.cpu import TILE
from mambarium.kernels.scan.cpu_tiles import TILE_BYTES, Inputs, block_channels, load_tile, states_tile
from mambarium.kernels.simd import FLOAT_BYTES, ROW_BYTES, load, load_channels, mul, sigmoid, store_channels

SCRATCH_BYTES = 3 * TILE_BYTES


@njit
def _forward_tile(inputs: Inputs, batch: int, block: int, tile: int, out: int, state: int, scratch: int) -> None:
    """Runs one tile of one block of one batch element; `state` is advanced."""
    step_rows, product_rows, y_rows = scratch, scratch + TILE_BYTES, scratch + 2 * TILE_BYTES
    channel, count = block_channels(inputs, block)
    dim = inputs.group_dim * (inputs.blocks // inputs.blocks_per_group)
    out_time = FLOAT_BYTES * dim * inputs.direction
    start = tile * TILE
    steps = min(TILE, inputs.length - start)
    if inputs.checkpoints != 0:
        tiles = (inputs.length + TILE - 1) // TILE
        place = ((batch * tiles + tile) * inputs.blocks + block) * inputs.d_state
        copy_rows(state, inputs.checkpoints + place * ROW_BYTES, inputs.d_state)
    load_tile(inputs, batch, block, start, steps, 0, step_rows, product_rows, y_rows, 0, TILE)
    advance_states(states_tile(inputs, batch, block, start, steps, step_rows, product_rows, y_rows), state)
    target = out + FLOAT_BYTES * (batch * inputs.length * dim + channel) + start * out_time
    z = inputs.z + batch * inputs.z_batch + start * inputs.z_time + FLOAT_BYTES * channel
    for t in range(steps):
        y = load(y_rows + t * ROW_BYTES)
        if inputs.z != 0:
            gate = load_channels(z + t * inputs.z_time, count)
            y = mul(y, mul(gate, sigmoid(gate)))
        store_channels(target + t * out_time, y, count)


@njit(parallel=True, nogil=True, cache=True)
def forward(inputs: Inputs, channel_parts: int, out: int, states: int, scratch: int) -> None:
    """Writes out (batch, length, dim), given by the first visit's row, and turns the initial states (batch, blocks,
    d_state, 16) into the last.

    The blocks of one of the channel_parts take turns at every tile: what they read lies side by side.
    """
    for item in prange(inputs.batch * channel_parts):
        thread = scratch + numba.get_thread_id() * SCRATCH_BYTES
        batch, part = item // channel_parts, item % channel_parts
        first, last = inputs.blocks * part // channel_parts, inputs.blocks * (part + 1) // channel_parts
        for tile in range((inputs.length + TILE - 1) // TILE):
            for block in range(first, last):
                state = states + (batch * inputs.blocks + block) * inputs.d_state * ROW_BYTES
                _forward_tile(inputs, batch, block, tile, out, state, thread)

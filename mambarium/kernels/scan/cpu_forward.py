"""Forward of the selective scan for the CPU: tile after tile, see `cpu_tiles.py`.

It keeps the state at the start of every tile as a checkpoint, where one is asked for.
"""

import numba
from numba import njit, prange

from mambarium.kernels.scan.cpu import TILE
from mambarium.kernels.scan.cpu_tiles import TILE_BYTES, Inputs, block_channels, load_tile, scan_states
from mambarium.kernels.simd import (
    ROW_BYTES,
    load,
    load_channels,
    mul,
    sigmoid,
    store,
    store_channels,
    zero_pair,
    zero_row,
)

SCRATCH_BYTES = 3 * TILE_BYTES


@njit
def _forward_block(inputs: Inputs, batch: int, block: int, out: int, state: int, scratch: int) -> None:
    """Runs one block of one batch element over the whole length; `state` is advanced to the last state."""
    x_rows, step_rows, y_rows = scratch, scratch + TILE_BYTES, scratch + 2 * TILE_BYTES
    channel, count = block_channels(inputs, block)
    group = block // inputs.blocks_per_group
    d_state = inputs.d_state
    tiles = (inputs.length + TILE - 1) // TILE
    dim = inputs.group_dim * (inputs.blocks // inputs.blocks_per_group)
    block_states = d_state * ROW_BYTES
    coefficients = inputs.coefficients + block * block_states
    for tile in range(tiles):
        start = tile * TILE
        steps = min(TILE, inputs.length - start)
        if inputs.checkpoints != 0:
            checkpoint = inputs.checkpoints + ((batch * tiles + tile) * inputs.blocks + block) * block_states
            for n in range(d_state):
                store(checkpoint + n * ROW_BYTES, load(state + n * ROW_BYTES, zero_row()))
        load_tile(inputs, batch, block, start, steps, x_rows, step_rows, y_rows, 0)
        B = inputs.B + batch * inputs.B_batch + start * inputs.B_time + group * inputs.B_group
        C = inputs.C + batch * inputs.C_batch + start * inputs.C_time + group * inputs.C_group
        reset = inputs.reset + batch * inputs.length + start * inputs.direction if inputs.reset != 0 else 0
        pairs = d_state - d_state % 2
        for n in range(0, pairs, 2):
            scan_states(
                zero_pair(),
                steps,
                coefficients + n * ROW_BYTES,
                state + n * ROW_BYTES,
                x_rows,
                step_rows,
                y_rows,
                B + 4 * n,
                inputs.B_time,
                C + 4 * n,
                inputs.C_time,
                reset,
                inputs.direction,
                0,
                0,
            )
        for n in range(pairs, d_state):
            scan_states(
                zero_row(),
                steps,
                coefficients + n * ROW_BYTES,
                state + n * ROW_BYTES,
                x_rows,
                step_rows,
                y_rows,
                B + 4 * n,
                inputs.B_time,
                C + 4 * n,
                inputs.C_time,
                reset,
                inputs.direction,
                0,
                0,
            )
        target = out + 4 * ((batch * inputs.length + start * inputs.direction) * dim + channel)
        z = inputs.z + batch * inputs.z_batch + start * inputs.z_time + 4 * channel
        for t in range(steps):
            y = load(y_rows + t * ROW_BYTES, zero_row())
            if inputs.z != 0:
                gate = load_channels(z + t * inputs.z_time, count)
                y = mul(y, mul(gate, sigmoid(gate)))
            store_channels(target + t * 4 * dim * inputs.direction, y, count)


@njit(parallel=True, nogil=True, cache=True)
def forward(inputs: Inputs, out: int, states: int, scratch: int) -> None:
    """Writes out (batch, length, dim), given by the first visit's row, and turns the initial states (batch, blocks,
    d_state, 16) into the last."""
    for item in prange(inputs.batch * inputs.blocks):
        thread = scratch + numba.get_thread_id() * SCRATCH_BYTES
        state = states + item * inputs.d_state * ROW_BYTES
        _forward_block(inputs, item // inputs.blocks, item % inputs.blocks, out, state, thread)

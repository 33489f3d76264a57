"""Forward of the grid scan for the CPU: route after route, tile after tile, see `cpu_tiles.py`.

It keeps the state at the start of every tile as a checkpoint, where one is asked for.
"""

import numba
from numba import njit, prange

from mambarium.kernels.cpu_states import advance_states, clear_rows, copy_rows
from mambarium.kernels.grid.cpu import TILE
from mambarium.kernels.grid.cpu_tiles import (
    TILE_BYTES,
    Inputs,
    block_channels,
    load_matrices,
    load_tile,
    states_tile,
    tile_order,
)
from mambarium.kernels.simd import ROW_BYTES, add, load, load_channels, load_int, store_channels


def scratch_bytes(d_state: int) -> int:
    """Scratch memory per thread: three arrays of rows, a tile's B and C, and the states."""
    return 3 * TILE_BYTES + 2 * 4 * TILE * d_state + d_state * ROW_BYTES


@njit
def _forward_route(inputs: Inputs, batch: int, route: int, block: int, out: int, scratch: int) -> None:
    """Runs one route over one block of one batch element; the first route writes, the others add."""
    step_rows, product_rows, y_rows = scratch, scratch + TILE_BYTES, scratch + 2 * TILE_BYTES
    d_state = inputs.d_state
    B_rows = scratch + 3 * TILE_BYTES
    C_rows = B_rows + 4 * TILE * d_state
    state = C_rows + 4 * TILE * d_state
    count = block_channels(inputs, block)
    tiles = (inputs.length + TILE - 1) // TILE
    block_states = d_state * ROW_BYTES
    clear_rows(state, d_state)
    for tile in range(tiles):
        start = tile * TILE
        steps = min(TILE, inputs.length - start)
        if inputs.checkpoints != 0:
            place = ((batch * inputs.routes + route) * tiles + tile) * inputs.blocks + block
            copy_rows(state, inputs.checkpoints + place * block_states, d_state)
        load_matrices(inputs, batch, route, start, steps, B_rows, C_rows)
        load_tile(inputs, batch, route, block, start, steps, 0, step_rows, product_rows, y_rows, 0, TILE)
        advance_states(states_tile(inputs, route, block, steps, step_rows, product_rows, y_rows, B_rows, C_rows), state)
        order = tile_order(inputs, route, start)
        target = out + 4 * batch * inputs.length * inputs.dim + block * ROW_BYTES
        for t in range(steps):
            position = target + load_int(order + 4 * t) * 4 * inputs.dim
            y = load(y_rows + t * ROW_BYTES)
            if route > 0:
                y = add(y, load_channels(position, count))
            store_channels(position, y, count)


@njit(parallel=True, nogil=True, cache=True)
def forward(inputs: Inputs, out: int, scratch_bytes: int, scratch: int) -> None:
    """Writes out (batch, length, dim)."""
    for item in prange(inputs.batch * inputs.blocks):
        thread = scratch + numba.get_thread_id() * scratch_bytes
        for route in range(inputs.routes):
            _forward_route(inputs, item // inputs.blocks, route, item % inputs.blocks, out, thread)

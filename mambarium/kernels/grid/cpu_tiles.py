"""Grid scan for the CPU: what forward and backward do with a tile's inputs, numba code on 16 channels at a time.

A block is 16 channels (fewer at the end: the missing lanes are zero). A route is cut into tiles of TILE steps. A
tile's rows are gathered by the route's index map into scratch memory that stays in the first-level cache, then all
states run over the tile, see `mambarium/kernels/cpu_states.py`, and the results are scattered by the same map. One
thread does all routes of its channels, one after another, so that it alone adds to its part of the outputs: no order
depends on the number of threads.

Per-block arrays: coefficients (routes, blocks, d_state, 16), per-channel values (routes, blocks, 16).
"""

from typing import NamedTuple

from numba import njit

from mambarium.kernels.cpu_states import Tile
from mambarium.kernels.grid.cpu import TILE
from mambarium.kernels.layout import LANES
from mambarium.kernels.simd import (
    ROW_BYTES,
    add,
    copy_floats,
    load,
    load_channels,
    load_int,
    mul,
    prefetch,
    softplus_rows,
    store,
)

# The padding keeps rows of different arrays that are used together from sharing the low 12 bits of their
# addresses, by which processors suspect that a load reads what a recent store wrote.
TILE_BYTES = (TILE + 5) * ROW_BYTES


class Inputs(NamedTuple):
    """Sizes, addresses and strides that forward and backward share."""

    batch: int
    length: int
    routes: int
    dim: int
    d_state: int
    blocks: int
    delta_softplus: int
    order: int
    u: int
    u_batch: int
    u_position: int
    u_routes: int
    u_route: int
    delta: int
    delta_batch: int
    delta_position: int
    delta_route: int
    B: int
    B_batch: int
    B_position: int
    B_route: int
    C: int
    C_batch: int
    C_position: int
    C_route: int
    coefficients: int
    skip: int
    bias: int
    checkpoints: int


@njit
def block_channels(inputs: Inputs, block: int) -> int:
    """The number of a block's channels."""
    return min(LANES, inputs.dim - block * LANES)


@njit
def tile_order(inputs: Inputs, route: int, start: int) -> int:
    """Address of the positions that a route visits from step `start` on."""
    return inputs.order + 4 * (route * inputs.length + start)


@njit
def next_position(inputs: Inputs, route: int, step: int) -> int:
    """The position at a step; the first or last one's for steps outside the route."""
    return load_int(tile_order(inputs, route, max(0, min(step, inputs.length - 1))))


@njit
def states_tile(
    inputs: Inputs,
    route: int,
    block: int,
    steps: int,
    step_rows: int,
    product_rows: int,
    y_rows: int,
    B_rows: int,
    C_rows: int,
) -> Tile:
    """A tile of a block, as the states see it."""
    coefficients = inputs.coefficients + (route * inputs.blocks + block) * inputs.d_state * ROW_BYTES
    row = 4 * inputs.d_state
    return Tile(steps, inputs.d_state, coefficients, step_rows, product_rows, y_rows, B_rows, row, C_rows, row, 0, 0)


@njit
def load_matrices(inputs: Inputs, batch: int, route: int, start: int, steps: int, B_rows: int, C_rows: int) -> None:
    """Gathers a tile's rows of B and C, d_state adjacent values each."""
    order = tile_order(inputs, route, start)
    B = inputs.B + batch * inputs.B_batch + route * inputs.B_route
    C = inputs.C + batch * inputs.C_batch + route * inputs.C_route
    for t in range(steps):
        position = load_int(order + 4 * t)
        row = 4 * t * inputs.d_state
        copy_floats(B + position * inputs.B_position, B_rows + row, inputs.d_state, False)
        copy_floats(C + position * inputs.C_position, C_rows + row, inputs.d_state, False)


@njit
def load_tile(
    inputs: Inputs,
    batch: int,
    route: int,
    block: int,
    start: int,
    steps: int,
    x_rows: int,
    step_rows: int,
    product_rows: int,
    y_rows: int,
    slope_rows: int,
    ahead: int,
) -> None:
    """Gathers a tile's inputs, steps and products of both, and where asked for skip terms and the steps' slopes
    (d softplus).

    The rows of the tile that comes next, `ahead` steps away, are asked for: rows lie apart and routes jump, which
    processors don't foresee.
    """
    count = block_channels(inputs, block)
    order = tile_order(inputs, route, start)
    u = inputs.u + batch * inputs.u_batch + route * inputs.u_route + block * ROW_BYTES
    delta = inputs.delta + batch * inputs.delta_batch + route * inputs.delta_route + block * ROW_BYTES
    values = (route * inputs.blocks + block) * ROW_BYTES
    bias = load(inputs.bias + values)
    skip = load(inputs.skip + values)
    for t in range(steps):
        prefetch(delta + next_position(inputs, route, start + t + ahead) * inputs.delta_position)
        position = load_int(order + 4 * t)
        step = add(load_channels(delta + position * inputs.delta_position, count), bias)
        store(step_rows + t * ROW_BYTES, step)
    if inputs.delta_softplus:
        softplus_rows(step_rows, steps, slope_rows, product_rows)
    for t in range(steps):
        row = t * ROW_BYTES
        prefetch(u + next_position(inputs, route, start + t + ahead) * inputs.u_position)
        x = load_channels(u + load_int(order + 4 * t) * inputs.u_position, count)
        store(product_rows + row, mul(load(step_rows + row), x))
        if x_rows != 0:
            store(x_rows + row, x)
        if y_rows != 0:
            store(y_rows + row, mul(skip, x))

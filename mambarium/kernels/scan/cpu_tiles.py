"""Selective scan for the CPU: what forward and backward do with a tile's inputs, numba code on 16 channels at a time.

A block is 16 channels of one group (fewer at a group's end: the missing lanes are zero). Time is cut into tiles of
TILE steps; a tile's inputs and steps are put into scratch rows that stay in the first-level cache, then all states run
over the tile, see `mambarium/kernels/cpu_states.py`.

Work is divided in a way that depends on the shapes alone, and every sum has one order: results do not depend on the
number of threads.

Strides follow the visits, so that a reversed scan has the last position's addresses and negative strides of time.
Per-block arrays: coefficients and states (blocks, d_state, 16), per-channel values (blocks, 16).
"""

from typing import NamedTuple

from numba import njit

from mambarium.kernels.cpu_states import Tile
from mambarium.kernels.layout import LANES
from mambarium.kernels.scan.cpu import TILE
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    ROW_BYTES,
    add,
    load,
    load_channels,
    mul,
    prefetch,
    softplus_rows,
    store,
)

# The padding keeps rows of different arrays that are used together from sharing the low 12 bits of their
# addresses, by which processors suspect that a load reads what a recent store wrote.
TILE_BYTES = (TILE + 5) * ROW_BYTES


class Inputs(NamedTuple):
    """Sizes, addresses and strides that forward and backward share; absent tensors have address 0.

    `direction` is 1 or, where positions are visited from the last to the first, -1; it is the sign of the strides of
    contiguous memory, which reset (batch, length) and the kernels' results are.
    """

    batch: int
    length: int
    d_state: int
    group_dim: int
    blocks: int
    blocks_per_group: int
    delta_softplus: int
    direction: int
    u: int
    u_batch: int
    u_time: int
    delta: int
    delta_batch: int
    delta_time: int
    z: int
    z_batch: int
    z_time: int
    B: int
    B_batch: int
    B_time: int
    B_group: int
    C: int
    C_batch: int
    C_time: int
    C_group: int
    coefficients: int
    skip: int
    bias: int
    reset: int
    checkpoints: int


@njit
def block_channels(inputs: Inputs, block: int) -> tuple[int, int]:
    """First channel of a block and the number of its channels."""
    group = block // inputs.blocks_per_group
    offset = (block - group * inputs.blocks_per_group) * LANES
    return group * inputs.group_dim + offset, min(LANES, inputs.group_dim - offset)


@njit
def states_tile(
    inputs: Inputs,
    batch: int,
    block: int,
    start: int,
    steps: int,
    step_rows: int,
    product_rows: int,
    y_rows: int,
) -> Tile:
    """The tile of a block from step `start` on, as the states see it."""
    group = block // inputs.blocks_per_group
    return Tile(
        steps,
        inputs.d_state,
        inputs.coefficients + block * inputs.d_state * ROW_BYTES,
        step_rows,
        product_rows,
        y_rows,
        inputs.B + batch * inputs.B_batch + start * inputs.B_time + group * inputs.B_group,
        inputs.B_time,
        inputs.C + batch * inputs.C_batch + start * inputs.C_time + group * inputs.C_group,
        inputs.C_time,
        inputs.reset + batch * inputs.length + start * inputs.direction if inputs.reset != 0 else 0,
        inputs.direction,
    )


@njit
def load_tile(
    inputs: Inputs,
    batch: int,
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
    """Fills a tile's steps, products of steps and inputs, skip terms and, where asked for, inputs and the steps' slopes
    (d softplus).

    The rows of the tile that comes next, `ahead` steps away, are asked for: rows lie apart, which processors don't
    foresee.
    """
    channel, count = block_channels(inputs, block)
    u = inputs.u + batch * inputs.u_batch + start * inputs.u_time + FLOAT_BYTES * channel
    delta = inputs.delta + batch * inputs.delta_batch + start * inputs.delta_time + FLOAT_BYTES * channel
    bias = load(inputs.bias + block * ROW_BYTES)
    skip = load(inputs.skip + block * ROW_BYTES)
    for t in range(steps):
        prefetch(delta + (t + ahead) * inputs.delta_time)
        step = add(load_channels(delta + t * inputs.delta_time, count), bias)
        store(step_rows + t * ROW_BYTES, step)
    if inputs.delta_softplus:
        softplus_rows(step_rows, steps, slope_rows, y_rows)
    for t in range(steps):
        row = t * ROW_BYTES
        prefetch(u + (t + ahead) * inputs.u_time)
        x = load_channels(u + t * inputs.u_time, count)
        store(product_rows + row, mul(load(step_rows + row), x))
        store(y_rows + row, mul(skip, x))
        if x_rows != 0:
            store(x_rows + row, x)

"""Selective scan for the CPU: what forward and backward do with a tile's inputs, numba code on 16 channels at a time.

A block is 16 channels of one group (fewer at a group's end: the missing lanes are zero). Time is cut into tiles of
TILE steps; a tile's inputs and steps are put into scratch rows that stay in the first-level cache, then all states run
over the tile, see `mambarium/kernels/cpu_states.py`.

The groups of a scan with an order visit the positions in orders of their own: rows are gathered and results scattered
by index maps. They add to the same output, so that one thread does all groups of its channels, one after another, in
as many rounds. Which of the two a kernel does is known when it is compiled: `order` is an address or None, and all
that goes with the other of them falls away.

Work is divided in a way that depends on the shapes alone, and every sum has one order: results do not depend on the
number of threads.

Per-block arrays: coefficients and states (blocks, d_state, 16), per-channel values (blocks, 16).
"""

from typing import Any, NamedTuple

from numba import njit

from mambarium.kernels.cpu_states import Tile
from mambarium.kernels.layout import LANES, TILE
from mambarium.kernels.simd import (
    FLOAT_BYTES,
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
    """Sizes, addresses and strides that forward and backward share; absent tensors have address 0.

    Tensors have the address of the first visit's row and the bytes from one batch element, from one visit (with an
    order: position) and from one group to the next, see `layout.rows_of`. A scan that visits positions from the last
    to the first has negative strides of time. `direction` is 1, or -1 there. `order` is (groups, length) int32; `reset`
    (batch, length) contiguous. Groups are done in `rounds`: all at once, or with an order one after another.
    """

    batch: int
    length: int
    d_state: int
    group_dim: int
    blocks: int
    blocks_per_group: int
    rounds: int
    delta_softplus: int
    direction: int
    order: int
    u: int
    u_batch: int
    u_time: int
    u_group: int
    delta: int
    delta_batch: int
    delta_time: int
    delta_group: int
    z: int
    z_batch: int
    z_time: int
    z_group: int
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
    scratch_bytes: int


@njit
def visited(order: int | None, step: int) -> int:
    """Return the position of a step, the step itself without an order; `order` is the group's."""
    if order is None:
        return step
    return load_int(order + 4 * step)


@njit
def upcoming(order: int | None, step: int, length: int) -> int:
    """Return the position of a step that may lie outside the sequence, with an order the nearest step's."""
    if order is None:
        return step
    return load_int(order + 4 * max(0, min(step, length - 1)))


@njit
def group_order(order: int | None, group: int, length: int) -> int | None:
    """Return the address of a group's order."""
    if order is None:
        return None
    return order + 4 * group * length


@njit
def block_channels(inputs: Inputs, block: int) -> tuple[int, int, int]:
    """Return a block's group, its first channel within that, and the number of its channels."""
    group = block // inputs.blocks_per_group
    channel = (block - group * inputs.blocks_per_group) * LANES
    return group, channel, min(LANES, inputs.group_dim - channel)


@njit
def load_matrices(inputs: Inputs, order: Any, batch: int, group: int, start: int, matrices: int) -> None:
    """Gather a tile's rows of B, then of C, d_state adjacent values each; without an order they are read in place."""
    if order is not None:
        own = group_order(order, group, inputs.length)
        B = inputs.B + batch * inputs.B_batch + group * inputs.B_group
        C = inputs.C + batch * inputs.C_batch + group * inputs.C_group
        row_bytes = FLOAT_BYTES * inputs.d_state
        for t in range(min(TILE, inputs.length - start)):
            position = visited(own, start + t)
            row = matrices + t * row_bytes
            copy_floats(B + position * inputs.B_time, row, inputs.d_state, False)
            copy_floats(C + position * inputs.C_time, row + TILE * row_bytes, inputs.d_state, False)


@njit
def states_tile(
    inputs: Inputs,
    order: Any,
    batch: int,
    block: int,
    start: int,
    steps: int,
    step_rows: int,
    product_rows: int,
    y_rows: int,
    matrices: int,
) -> Tile:
    """Return the tile of a block from step `start` on, as the states see it."""
    group = block // inputs.blocks_per_group
    coefficients = inputs.coefficients + block * inputs.d_state * ROW_BYTES
    if order is not None:
        row = FLOAT_BYTES * inputs.d_state
        rows = (steps, inputs.d_state, coefficients, step_rows, product_rows, y_rows)
        return Tile(*rows, matrices, row, matrices + TILE * row, row, 0, 0)
    return Tile(
        steps,
        inputs.d_state,
        coefficients,
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
    order: Any,
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
    """Fill a tile's steps and the products of steps and inputs.

    Unless their address is 0, also the inputs, the skip terms and the steps' slopes (d softplus).
    The rows of the tile that comes next, `ahead` steps away, are asked for: rows lie apart and orders jump, which
    processors don't foresee.
    """
    group, channel, count = block_channels(inputs, block)
    own = group_order(order, group, inputs.length)
    u = inputs.u + batch * inputs.u_batch + group * inputs.u_group + FLOAT_BYTES * channel
    delta = inputs.delta + batch * inputs.delta_batch + group * inputs.delta_group + FLOAT_BYTES * channel
    bias = load(inputs.bias + block * ROW_BYTES)
    skip = load(inputs.skip + block * ROW_BYTES)
    for t in range(steps):
        prefetch(delta + upcoming(own, start + t + ahead, inputs.length) * inputs.delta_time)
        step = add(load_channels(delta + visited(own, start + t) * inputs.delta_time, count), bias)
        store(step_rows + t * ROW_BYTES, step)
    if inputs.delta_softplus:
        softplus_rows(step_rows, steps, slope_rows, product_rows)
    for t in range(steps):
        row = t * ROW_BYTES
        prefetch(u + upcoming(own, start + t + ahead, inputs.length) * inputs.u_time)
        x = load_channels(u + visited(own, start + t) * inputs.u_time, count)
        store(product_rows + row, mul(load(step_rows + row), x))
        if x_rows != 0:
            store(x_rows + row, x)
        if y_rows != 0:
            store(y_rows + row, mul(skip, x))

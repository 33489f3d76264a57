"""Selective scan for the CPU: what forward and backward do with a tile's inputs, numba code on 16 channels at a time.

A block is 16 channels of one group (fewer at a group's end: the missing lanes are zero). Time is cut into tiles of
TILE steps; a tile's inputs and steps are put into scratch rows that stay in the first-level cache, whatever their
strides (`mambarium/kernels/cpu_rows.py`), then all states run over the tile (`mambarium/kernels/cpu_states.py`).

The groups of a scan with an order visit the positions in orders of their own: rows are gathered and results scattered
by index maps. They add to the same output, so that one thread does all groups of its channels, one after another, in
as many rounds. Which of the two a kernel does is known when it is compiled: `order` is an address or None, and all
that goes with the other of them falls away.

Named tuples are passed by value, and those here are long: what runs once per tile is inlined.

Work is divided in a way that depends on the shapes alone, and every sum has one order: results do not depend on the
number of threads.
"""

from typing import Any, NamedTuple

from numba import njit

from mambarium.kernels.cpu_rows import Buffer, Channels, Rows, Steps, load_rows, read_rows, rows_at
from mambarium.kernels.cpu_states import Tile
from mambarium.kernels.layout import LANES, TILE
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    ROW_BYTES,
    add,
    load,
    mul,
    prefetch,
    softplus_rows,
    store,
    times_log2_e,
)

# The padding keeps rows of different arrays that are used together from sharing the low 12 bits of their
# addresses, by which processors suspect that a load reads what a recent store wrote.
TILE_BYTES = (TILE + 5) * ROW_BYTES


class Inputs(NamedTuple):
    """Sizes, addresses and strides that forward and backward share; absent tensors have address 0.

    Steps of u, delta, z, B and C are visits, with an order positions; those of A, whose "time" is its states, and of D
    and bias are one each. A scan that visits positions from the last to the first has negative strides of time.
    `direction` is 1, or -1 there. `order` is (groups, length) int32; `reset` (batch, length) contiguous; checkpoints
    (batch, tiles, blocks, d_state, 16). Groups are done in `rounds`: all at once, or with an order one after another.
    A tile's matrices have rows of `matrix_row` bytes. `scratch_bytes` is each thread's scratch memory, which begins
    `shared_bytes` after the threads' common one.
    """

    batch: int
    length: int
    d_state: int
    matrix_row: int
    group_dim: int
    blocks: int
    blocks_per_group: int
    rounds: int
    delta_softplus: int
    direction: int
    scratch_bytes: int
    shared_bytes: int
    order: int
    reset: int
    checkpoints: int
    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    A: Rows
    D: Rows
    bias: Rows


@njit
def named_inputs(values: Any) -> Inputs:
    """Return the values of `Inputs` by their names."""
    tensors = (
        Rows(*values[15:20]),
        Rows(*values[20:25]),
        Rows(*values[25:30]),
        Rows(*values[30:35]),
        Rows(*values[35:40]),
        Rows(*values[40:45]),
        Rows(*values[45:50]),
        Rows(*values[50:55]),
    )
    return Inputs(*(values[:15] + tensors))


@njit
def group_order(order: int | None, group: int, length: int) -> int | None:
    """Return the address of a group's order."""
    if order is None:
        return None
    return order + 4 * group * length


@njit
def block_channels(inputs: Inputs, batch: int, block: int) -> Channels:
    """Return the channels of a batch element's block."""
    group = block // inputs.blocks_per_group
    first = (block - group * inputs.blocks_per_group) * LANES
    return Channels(batch, group, first, min(LANES, inputs.group_dim - first))


@njit
def load_parameters(inputs: Inputs, block: int, rows: int, pad: int) -> None:
    """Fill a block's rows of D, delta_bias and A * log2(e), one for each state; zeros for what is absent."""
    channels, single, states = block_channels(inputs, 0, block), Steps(0, 1, 1, 0), all_states(inputs)
    coefficients = rows + 2 * ROW_BYTES
    load_rows(inputs.D, channels, None, single, Buffer(rows, ROW_BYTES, pad, 0))
    load_rows(inputs.bias, channels, None, single, Buffer(rows + ROW_BYTES, ROW_BYTES, pad, 0))
    load_rows(inputs.A, channels, None, states, Buffer(coefficients, ROW_BYTES, pad, 0))
    for n in range(inputs.d_state):
        place = coefficients + n * ROW_BYTES
        store(place, times_log2_e(load(place)))


@njit
def all_states(inputs: Inputs) -> Steps:
    """Return what makes states the steps, as of A and of the scan's own states."""
    return Steps(0, inputs.d_state, inputs.d_state, 0)


@njit
def _load_matrix(inputs: Inputs, order: Any, x: Rows, batch: int, group: int, start: int, rows: int, pad: int) -> None:
    own = group_order(order, group, inputs.length)
    steps = Steps(start, min(TILE, inputs.length - start), inputs.length, 0)
    for first in range(0, inputs.d_state, LANES):
        channels = Channels(batch, group, first, min(LANES, inputs.d_state - first))
        load_rows(x, channels, own, steps, Buffer(rows + first * FLOAT_BYTES, inputs.matrix_row, pad, 0))


@njit
def load_matrices(inputs: Inputs, order: Any, batch: int, group: int, start: int, matrices: int, pad: int) -> None:
    """Gather a tile's rows of B, then of C; without an order they are read in place if their states are adjacent."""
    if order is not None or inputs.B.channel != FLOAT_BYTES:
        _load_matrix(inputs, order, inputs.B, batch, group, start, matrices, pad)
    if order is not None or inputs.C.channel != FLOAT_BYTES:
        rows = matrices + TILE * inputs.matrix_row
        _load_matrix(inputs, order, inputs.C, batch, group, start, rows, pad)


@njit
def states_tile(
    inputs: Inputs,
    order: Any,
    batch: int,
    block: int,
    start: int,
    steps: int,
    coefficients: int,
    step_rows: int,
    product_rows: int,
    y_rows: int,
    matrices: int,
) -> Tile:
    """Return what `cpu_states` needs to know of a tile, after `load_tile` and `load_matrices`."""
    group = block // inputs.blocks_per_group
    B_row = C_row = inputs.matrix_row
    B, C = matrices, matrices + TILE * B_row
    if order is None and inputs.B.channel == FLOAT_BYTES:
        B, B_row = rows_at(inputs.B, batch, group, 0) + start * inputs.B.time, inputs.B.time
    if order is None and inputs.C.channel == FLOAT_BYTES:
        C, C_row = rows_at(inputs.C, batch, group, 0) + start * inputs.C.time, inputs.C.time
    reset = 0
    if order is None and inputs.reset != 0:
        reset = inputs.reset + batch * inputs.length + start * inputs.direction
    return Tile(
        steps,
        inputs.d_state,
        coefficients,
        step_rows,
        product_rows,
        y_rows,
        B,
        B_row,
        C,
        C_row,
        reset,
        inputs.direction,
    )


@njit(inline="always")
def load_tile(
    inputs: Inputs,
    order: Any,
    batch: int,
    block: int,
    which: Steps,
    own: int,
    x_rows: int,
    step_rows: int,
    product_rows: int,
    y_rows: int,
    slope_rows: int,
    pad: int,
) -> tuple[int, int]:
    """Fill a tile's steps and the products of steps and inputs, given the block's own rows (`load_parameters`).

    Unless their address is 0, also the skip terms and the steps' slopes (d softplus). The rows of the tile that comes
    next are asked for.

    Returns:
        The address of the inputs, x_rows if they can't be read in place, and the bytes between them.
    """
    channels = block_channels(inputs, batch, block)
    visits = group_order(order, channels.group, inputs.length)
    skip, bias = load(own), load(own + ROW_BYTES)
    deltas, delta_bytes = read_rows(inputs.delta, channels, visits, which, Buffer(step_rows, ROW_BYTES, pad, 0))
    for t in range(which.number):
        prefetch(deltas + (t + which.ahead) * delta_bytes)
        store(step_rows + t * ROW_BYTES, add(load(deltas + t * delta_bytes), bias))
    if inputs.delta_softplus:
        softplus_rows(step_rows, which.number, slope_rows, product_rows)
    xs, x_bytes = read_rows(inputs.u, channels, visits, which, Buffer(x_rows, ROW_BYTES, pad, 0))
    for t in range(which.number):
        row = t * ROW_BYTES
        prefetch(xs + (t + which.ahead) * x_bytes)
        x = load(xs + t * x_bytes)
        store(product_rows + row, mul(load(step_rows + row), x))
        if y_rows != 0:
            store(y_rows + row, mul(skip, x))
    return xs, x_bytes

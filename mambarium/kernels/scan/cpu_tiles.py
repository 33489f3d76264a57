"""Selective scan for the CPU: what forward and backward do with a tile, numba code on 16 channels at a time.

A block is 16 channels of one group (fewer at a group's end: the missing lanes are zero). Time is cut into
tiles of TILE steps; a tile's inputs and steps are put into scratch rows that stay in the first-level cache,
then two states at a time (a last odd one alone) run over the tile with the states in registers.

Work is divided in a way that depends on the shapes alone, and every sum has one order: results do not
depend on the number of threads.

Addresses are integers and strides count bytes; they follow the visits, so that a reversed scan has the last
position's addresses and negative strides of time. Per-block arrays: coefficients and states (blocks, d_state,
16), per-channel values (blocks, 16). A is given times log2(e) for the decays, exp(s * A) = 2 ** (s * A *
log2(e)).
"""

from typing import Any, NamedTuple

from numba import njit

from mambarium.kernels.layout import LANES
from mambarium.kernels.scan.cpu import TILE
from mambarium.kernels.simd import (
    ROW_BYTES,
    add,
    dot_rows,
    exp2,
    fma,
    load,
    load_byte,
    load_channels,
    load_spread,
    mul,
    repeat,
    sigmoid,
    size_in_bytes,
    softplus,
    store,
    zero_row,
)

# The padding keeps rows of different arrays that are used together from sharing the low 12 bits of their
# addresses, by which processors suspect that a load reads what a recent store wrote; the backward's history of
# states uses part of it.
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
def is_reset(reset: int, t: int) -> bool:
    return reset != 0 and load_byte(reset + t) != 0


@njit
def load_tile(
    inputs: Inputs,
    batch: int,
    block: int,
    start: int,
    steps: int,
    x_rows: int,
    step_rows: int,
    y_rows: int,
    slope_rows: int,
) -> None:
    """Fills a tile's inputs, steps, skip terms and, where asked for, the steps' slopes (d softplus)."""
    channel, count = block_channels(inputs, block)
    u = inputs.u + batch * inputs.u_batch + start * inputs.u_time + 4 * channel
    delta = inputs.delta + batch * inputs.delta_batch + start * inputs.delta_time + 4 * channel
    bias = load(inputs.bias + block * ROW_BYTES, zero_row())
    skip = load(inputs.skip + block * ROW_BYTES, zero_row())
    for t in range(steps):
        row = t * ROW_BYTES
        x = load_channels(u + t * inputs.u_time, count)
        step = add(load_channels(delta + t * inputs.delta_time, count), bias)
        store(x_rows + row, x)
        store(y_rows + row, mul(skip, x))
        if slope_rows != 0 and inputs.delta_softplus:
            store(slope_rows + row, sigmoid(step))
        store(step_rows + row, softplus(step) if inputs.delta_softplus else step)


@njit
def scan_states(
    zero: Any,
    steps: int,
    coefficients: int,
    state: int,
    x_rows: int,
    step_rows: int,
    y_rows: int,
    B: int,
    B_time: int,
    C: int,
    C_time: int,
    reset: int,
    reset_time: int,
    history: int,
    decays: int,
) -> None:
    """Runs as many states as `zero` has rows over a tile, and adds their outputs to y_rows unless that is 0.

    With `history` the decays, and the state before each step and after the last, are kept, and the state at
    `state` is only read; without it that state is advanced.
    """
    vector_bytes = size_in_bytes(zero)
    a = load(coefficients, zero)
    h = load(state, zero)
    for t in range(steps):
        row = t * ROW_BYTES
        if is_reset(reset, t * reset_time):
            h = zero
        step = load(step_rows + row, zero_row())
        x = load(x_rows + row, zero_row())
        decay = exp2(mul(repeat(step, zero), a))
        if history != 0:
            store(history + t * vector_bytes, h)
            store(decays + t * vector_bytes, decay)
        h = fma(decay, h, mul(repeat(mul(step, x), zero), load_spread(B + t * B_time, zero)))
        if y_rows != 0:
            y = load(y_rows + row, zero_row())
            store(y_rows + row, dot_rows(h, load_spread(C + t * C_time, zero), y))
    if history != 0:
        store(history + steps * vector_bytes, h)
    else:
        store(state, h)

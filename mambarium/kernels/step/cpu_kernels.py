"""One step of the selective scan for the CPU: numba code, 16 channels at a time and 16 states of each.

A block is 16 channels of one head of one batch element (fewer at a head's end). What there is once per channel is
computed for the block at once; then channel after channel takes its states through the step. Addresses are integers
and strides count bytes.
"""

from typing import NamedTuple

import numba
from numba import njit, prange

from mambarium.kernels.layout import LANES
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    PARTIAL_BYTES,
    PARTIAL_LANES,
    ROW_BYTES,
    add,
    exp2,
    fma,
    load,
    load_channels,
    load_int,
    load_repeated,
    mul,
    sigmoid,
    softplus_rows,
    store,
    store_channels,
    store_partial_dot,
    store_sums,
    times_log2_e,
    zero_row,
)

# Steps, their products with the inputs, outputs and the outputs' partial sums.
SCRATCH_BYTES = 3 * ROW_BYTES + LANES * PARTIAL_BYTES


class Inputs(NamedTuple):
    """Sizes, addresses and strides of a step; absent tensors have address 0.

    x, dt, z (batch, heads, dim) and D, bias (heads, dim) have adjacent channels; A (heads, dim, d_state), B, C (batch,
    groups, d_state) and the states (entries, heads, dim, d_state) have adjacent states; out is contiguous. `places`,
    (batch,) int32, are the entries of the batch's elements, in their order if there are none.
    """

    batch: int
    heads: int
    heads_per_group: int
    dim: int
    d_state: int
    softplus: int
    state: int
    state_entry: int
    state_head: int
    state_channel: int
    x: int
    x_batch: int
    x_head: int
    dt: int
    dt_batch: int
    dt_head: int
    z: int
    z_batch: int
    z_head: int
    A: int
    A_head: int
    A_channel: int
    B: int
    B_batch: int
    B_group: int
    C: int
    C_batch: int
    C_group: int
    D: int
    D_head: int
    bias: int
    bias_head: int
    places: int
    out: int


@njit
def _step_channel(inputs: Inputs, state: int, A: int, B: int, C: int, step: int, product: int, target: int) -> None:
    """Take the states of a channel through the step, and write partial sums of their output."""
    exponent, product_row = load_repeated(step), load_repeated(product)
    total = zero_row()
    for first in range(0, inputs.d_state, LANES):
        place, count = FLOAT_BYTES * first, min(LANES, inputs.d_state - first)
        decay = exp2(mul(exponent, load_channels(A + place, count)))
        kept = mul(decay, load_channels(state + place, count))
        h = fma(product_row, load_channels(B + place, count), kept)
        store_channels(state + place, h, count)
        total = fma(h, load_channels(C + place, count), total)
    store_partial_dot(target, total, exp2(zero_row()))


@njit
def _step_block(inputs: Inputs, item: int, scratch: int) -> None:
    blocks = (inputs.dim + LANES - 1) // LANES
    batch, rest = item // (inputs.heads * blocks), item % (inputs.heads * blocks)
    head, first = rest // blocks, rest % blocks * LANES
    count, channels = min(LANES, inputs.dim - first), FLOAT_BYTES * first
    out = inputs.out + FLOAT_BYTES * ((batch * inputs.heads + head) * inputs.dim + first)
    entry = batch if inputs.places == 0 else load_int(inputs.places + 4 * batch)
    if entry < 0:
        store_channels(out, zero_row(), count)
        return
    steps, products, totals = scratch, scratch + ROW_BYTES, scratch + 2 * ROW_BYTES
    partial = scratch + 3 * ROW_BYTES
    x = load_channels(inputs.x + batch * inputs.x_batch + head * inputs.x_head + channels, count)
    step = load_channels(inputs.dt + batch * inputs.dt_batch + head * inputs.dt_head + channels, count)
    if inputs.bias != 0:
        step = add(step, load_channels(inputs.bias + head * inputs.bias_head + channels, count))
    store(steps, step)
    if inputs.softplus:
        softplus_rows(steps, 1, 0, products)
    step = load(steps)
    store(products, mul(step, x))
    store(steps, times_log2_e(step))
    group = head // inputs.heads_per_group
    state = inputs.state + entry * inputs.state_entry + head * inputs.state_head + first * inputs.state_channel
    A = inputs.A + head * inputs.A_head + first * inputs.A_channel
    B = inputs.B + batch * inputs.B_batch + group * inputs.B_group
    C = inputs.C + batch * inputs.C_batch + group * inputs.C_group
    for c in range(count):
        place = FLOAT_BYTES * c
        _step_channel(
            inputs,
            state + c * inputs.state_channel,
            A + c * inputs.A_channel,
            B,
            C,
            steps + place,
            products + place,
            partial + c * PARTIAL_BYTES,
        )
    for c in range(0, LANES, PARTIAL_LANES):  # beyond `count` of what an earlier block left, which is not stored
        store_sums(partial + c * PARTIAL_BYTES, totals + FLOAT_BYTES * c)
    y = load(totals)
    if inputs.D != 0:
        y = fma(load_channels(inputs.D + head * inputs.D_head + channels, count), x, y)
    if inputs.z != 0:
        gate = load_channels(inputs.z + batch * inputs.z_batch + head * inputs.z_head + channels, count)
        y = mul(y, mul(gate, sigmoid(gate)))
    store_channels(out, y, count)


@njit(parallel=True, nogil=True, cache=True)
def step(arguments: tuple[int, ...], scratch: int) -> None:
    """Update the states and write out, given the values of `Inputs`."""
    inputs = Inputs(*arguments)
    blocks = (inputs.dim + LANES - 1) // LANES
    for item in prange(inputs.batch * inputs.heads * blocks):
        _step_block(inputs, item, scratch + numba.get_thread_id() * SCRATCH_BYTES)

"""Causal depthwise convolution for the CPU: numba code on 16 channels at a time, the last inputs in registers.

Time goes tile by tile through scratch rows, so that strides are free (`mambarium/kernels/cpu_rows.py`). Addresses are
integers and strides count bytes; they follow the visits, so that a reversed convolution has the last position's
addresses and negative strides of time. A tap that is absent, because the kernel is narrower than 4 or the tap lies in
another document, is left out and never multiplied by zero, so that it can't spread infinities.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, prange

from mambarium.kernels.cpu_rows import (
    PAD_BYTES,
    Buffer,
    Channels,
    Rows,
    Steps,
    add_parts,
    load_rows,
    read_rows,
    store_rows,
)
from mambarium.kernels.cpu_states import clear_rows
from mambarium.kernels.layout import LANES, TILE
from mambarium.kernels.simd import (
    ROW_BYTES,
    add,
    fma,
    load,
    load_int,
    mul,
    sigmoid,
    silu_slope,
    store,
    zero_row,
)

# The kernels work on as many taps as the widest convolution has.
_TAPS = 4
_EARLIER = _TAPS - 1
# Of the weights the bias, then the taps, the newest first.
WEIGHT_BYTES = (1 + _TAPS) * ROW_BYTES
_ROWS_BYTES = (TILE + _EARLIER + 2) * ROW_BYTES
SCRATCH_BYTES = PAD_BYTES + WEIGHT_BYTES + _EARLIER * ROW_BYTES + 3 * _ROWS_BYTES


class Inputs(NamedTuple):
    """Sizes, addresses and strides; absent tensors have address 0.

    Steps of the weight are its taps, the newest first, those of the states the inputs before the first, the latest
    first. `direction` is 1 or, where positions are visited from the last to the first, -1; it is the sign of the
    stride of seq_idx, (batch, length) contiguous. `shared_bytes` of scratch memory come before the threads' own.
    """

    batch: int
    length: int
    dim: int
    width: int
    silu: int
    direction: int
    shared_bytes: int
    seq_idx: int
    x: Rows
    weight: Rows
    bias: Rows
    states: Rows


class Gradients(NamedTuple):
    """The backward's incoming gradient and its outputs, with steps as in `Inputs`."""

    batch_parts: int
    out: Rows
    x: Rows
    weight: Rows
    bias: Rows
    states: Rows


class Block(NamedTuple):
    """Sixteen channels of a batch element, fewer at the end, and a thread's scratch memory for them.

    The rows hold inputs, gradients of the output, and outputs or gradients of inputs, of a tile each.
    """

    channels: Channels
    documents: int
    pad: int
    weights: int
    earlier: int
    x_rows: int
    incoming_rows: int
    out_rows: int


@njit
def _named_inputs(values: Any) -> Inputs:
    tensors = (Rows(*values[8:13]), Rows(*values[13:18]), Rows(*values[18:23]), Rows(*values[23:28]))
    return Inputs(*(values[:8] + tensors))


@njit
def _block(inputs: Inputs, batch: int, block: int, scratch: int) -> Block:
    weights = scratch + PAD_BYTES
    earlier = weights + WEIGHT_BYTES
    rows = earlier + _EARLIER * ROW_BYTES
    documents = inputs.seq_idx + 4 * batch * inputs.length if inputs.seq_idx != 0 else 0
    channels = Channels(batch, 0, block * LANES, min(LANES, inputs.dim - block * LANES))
    return Block(channels, documents, scratch, weights, earlier, rows, rows + _ROWS_BYTES, rows + 2 * _ROWS_BYTES)


@njit
def _read_steps(x: Rows, block: Block, start: int, steps: int, rows: int) -> tuple[int, int]:
    return read_rows(x, block.channels, None, Steps(start, steps, 0, TILE), Buffer(rows, ROW_BYTES, block.pad, 0))


@njit
def _store_steps(x: Rows, block: Block, start: int, steps: int, rows: int) -> None:
    store_rows(x, block.channels, None, Steps(start, steps, 0, 0), Buffer(rows, ROW_BYTES, block.pad, 0))


@njit
def _load_block(inputs: Inputs, block: Block) -> None:
    """Fill the rows of the weights and of the inputs before the first, with zeros for what is absent."""
    clear_rows(block.weights, 1 + _TAPS)
    clear_rows(block.earlier, _EARLIER)
    pad = block.pad
    load_rows(inputs.bias, block.channels, None, Steps(0, 1, 1, 0), Buffer(block.weights, ROW_BYTES, pad, 0))
    taps, earlier = Steps(0, inputs.width, inputs.width, 0), Steps(0, inputs.width - 1, inputs.width - 1, 0)
    load_rows(inputs.weight, block.channels, None, taps, Buffer(block.weights + ROW_BYTES, ROW_BYTES, pad, 0))
    load_rows(inputs.states, block.channels, None, earlier, Buffer(block.earlier, ROW_BYTES, pad, 0))


@njit
def _has_tap(inputs: Inputs, documents: int, t: int, back: int) -> bool:
    """Whether position t sees the input `back` positions earlier; those before the start count as position 0."""
    if back >= inputs.width:
        return False
    if documents == 0:
        return True
    step = 4 * inputs.direction
    return load_int(documents + step * max(t - back, 0)) == load_int(documents + step * t)


@njit(inline="always")
def _forward_block(inputs: Inputs, out: Rows, batch: int, which: int, scratch: int) -> None:
    block = _block(inputs, batch, which, scratch)
    _load_block(inputs, block)
    weights, earlier = block.weights, block.earlier
    bias, w0, w1 = load(weights), load(weights + ROW_BYTES), load(weights + 2 * ROW_BYTES)
    w2, w3 = load(weights + 3 * ROW_BYTES), load(weights + 4 * ROW_BYTES)
    x1, x2, x3 = load(earlier), load(earlier + ROW_BYTES), load(earlier + 2 * ROW_BYTES)
    for start in range(0, inputs.length, TILE):
        steps = min(TILE, inputs.length - start)
        x_rows, x_bytes = _read_steps(inputs.x, block, start, steps, block.x_rows)
        for step in range(steps):
            t = start + step
            x0 = load(x_rows + step * x_bytes)
            y = fma(w0, x0, bias)
            if _has_tap(inputs, block.documents, t, 1):
                y = fma(w1, x1, y)
            if _has_tap(inputs, block.documents, t, 2):
                y = fma(w2, x2, y)
            if _has_tap(inputs, block.documents, t, 3):
                y = fma(w3, x3, y)
            if inputs.silu:
                y = mul(y, sigmoid(y))
            store(block.out_rows + step * ROW_BYTES, y)
            x3, x2, x1 = x2, x1, x0
        _store_steps(out, block, start, steps, block.out_rows)


@njit
def _forward_item(arguments: tuple[int, ...], target: tuple[int, ...], item: Any, scratch: int) -> None:
    inputs = _named_inputs(arguments)
    blocks = (inputs.dim + LANES - 1) // LANES
    own = scratch + numba.get_thread_id() * SCRATCH_BYTES
    _forward_block(inputs, Rows(*target), item // blocks, item % blocks, own)


@njit(parallel=True, nogil=True, cache=True)
def forward(arguments: tuple[int, ...], target: tuple[int, ...], scratch: int) -> None:
    """Write out, given its values of `Rows`, and the values of `Inputs`."""
    inputs = _named_inputs(arguments)
    for item in prange(inputs.batch * ((inputs.dim + LANES - 1) // LANES)):
        _forward_item(arguments, target, np.int64(item), scratch)


@njit
def _store_input_gradients(inputs: Inputs, gradients: Gradients, block: Block, start: int, steps: int) -> None:
    """Write the gradients of inputs from a position on, which may lie before the first, among the earlier ones."""
    before = min(steps, max(-start, 0))
    for row in range(before):
        place = -1 - (start + row)  # the latest is the first
        if place < inputs.width - 1:
            _store_steps(gradients.states, block, place, 1, block.out_rows + row * ROW_BYTES)
    _store_steps(gradients.x, block, start + before, steps - before, block.out_rows + before * ROW_BYTES)


@njit
def _backward_block(
    inputs: Inputs, gradients: Gradients, batch: int, which: int, weight_gradients: int, scratch: int
) -> None:
    """Go through one block of one batch element; g1 to g3 are gradients of inputs that later steps add to."""
    block = _block(inputs, batch, which, scratch)
    _load_block(inputs, block)
    weights, earlier, sums = block.weights, block.earlier, weight_gradients
    bias, w0, w1 = load(weights), load(weights + ROW_BYTES), load(weights + 2 * ROW_BYTES)
    w2, w3 = load(weights + 3 * ROW_BYTES), load(weights + 4 * ROW_BYTES)
    grad_bias, grad_w0, grad_w1 = load(sums), load(sums + ROW_BYTES), load(sums + 2 * ROW_BYTES)
    grad_w2, grad_w3 = load(sums + 3 * ROW_BYTES), load(sums + 4 * ROW_BYTES)
    x1, x2, x3 = load(earlier), load(earlier + ROW_BYTES), load(earlier + 2 * ROW_BYTES)
    g1 = zero_row()
    g2 = zero_row()
    g3 = zero_row()
    for start in range(0, inputs.length, TILE):
        steps = min(TILE, inputs.length - start)
        x_rows, x_bytes = _read_steps(inputs.x, block, start, steps, block.x_rows)
        incoming_rows, incoming_bytes = _read_steps(gradients.out, block, start, steps, block.incoming_rows)
        for step in range(steps):
            t, row = start + step, step * ROW_BYTES
            x0, g = load(x_rows + step * x_bytes), load(incoming_rows + step * incoming_bytes)
            has1 = _has_tap(inputs, block.documents, t, 1)
            has2 = _has_tap(inputs, block.documents, t, 2)
            has3 = _has_tap(inputs, block.documents, t, 3)
            if inputs.silu:
                y = fma(w0, x0, bias)
                if has1:
                    y = fma(w1, x1, y)
                if has2:
                    y = fma(w2, x2, y)
                if has3:
                    y = fma(w3, x3, y)
                g = mul(g, silu_slope(y, sigmoid(y)))
            grad_bias = add(grad_bias, g)
            grad_w0 = fma(g, x0, grad_w0)
            if has1:
                grad_w1 = fma(g, x1, grad_w1)
                g1 = fma(w1, g, g1)
            if has2:
                grad_w2 = fma(g, x2, grad_w2)
                g2 = fma(w2, g, g2)
            if has3:
                grad_w3 = fma(g, x3, grad_w3)
                g3 = fma(w3, g, g3)
            store(block.out_rows + row, g3)
            g3, g2, g1 = g2, g1, mul(w0, g)
            x3, x2, x1 = x2, x1, x0
        _store_input_gradients(inputs, gradients, block, start - _EARLIER, steps)
    store(block.out_rows, g3)
    store(block.out_rows + ROW_BYTES, g2)
    store(block.out_rows + 2 * ROW_BYTES, g1)
    _store_input_gradients(inputs, gradients, block, inputs.length - _EARLIER, _EARLIER)
    store(sums, grad_bias)
    store(sums + ROW_BYTES, grad_w0)
    store(sums + 2 * ROW_BYTES, grad_w1)
    store(sums + 3 * ROW_BYTES, grad_w2)
    store(sums + 4 * ROW_BYTES, grad_w3)


@njit(inline="always")
def _backward_item(inputs: Inputs, gradients: Gradients, item: int, shared: int, scratch: int) -> None:
    blocks = (inputs.dim + LANES - 1) // LANES
    batch_part = item // blocks
    first = inputs.batch * batch_part // gradients.batch_parts
    last = inputs.batch * (batch_part + 1) // gradients.batch_parts
    weight_gradients = shared + item * WEIGHT_BYTES
    clear_rows(weight_gradients, 1 + _TAPS)
    for batch in range(first, last):
        _backward_block(inputs, gradients, batch, item % blocks, weight_gradients, scratch)


@njit(inline="always")
def _add_up(inputs: Inputs, gradients: Gradients, which: int, shared: int, scratch: int) -> None:
    """Add up what all parts of the batch have for a block of the weights, and write the gradients."""
    block = _block(inputs, 0, which, scratch)
    blocks = (inputs.dim + LANES - 1) // LANES
    sums = shared + which * WEIGHT_BYTES
    add_parts(sums, gradients.batch_parts, WEIGHT_BYTES, blocks * WEIGHT_BYTES)
    _store_steps(gradients.bias, block, 0, 1, sums)
    _store_steps(gradients.weight, block, 0, inputs.width, sums + ROW_BYTES)


@njit
def _named_gradients(values: Any) -> Gradients:
    return Gradients(
        values[0],
        Rows(*values[1:6]),
        Rows(*values[6:11]),
        Rows(*values[11:16]),
        Rows(*values[16:21]),
        Rows(*values[21:26]),
    )


@njit
def _run_item(arguments: tuple[int, ...], targets: tuple[int, ...], phase: int, item: Any, scratch: int) -> None:
    """Run an item: in the first phase of the gradients, in the second of their sums."""
    inputs, gradients = _named_inputs(arguments), _named_gradients(targets)
    own = scratch + inputs.shared_bytes + numba.get_thread_id() * SCRATCH_BYTES
    if phase == 0:
        _backward_item(inputs, gradients, item, scratch, own)
    else:
        _add_up(inputs, gradients, item, scratch, own)


@njit(parallel=True, nogil=True, cache=True)
def backward(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """Write the gradients, given the values of `Inputs` and `Gradients`."""
    blocks = (_named_inputs(arguments).dim + LANES - 1) // LANES
    for phase in range(2):
        items = (targets[0] if phase == 0 else 1) * blocks
        for item in prange(items):
            _run_item(arguments, targets, phase, np.int64(item), scratch)

"""Causal depthwise convolution for the CPU: numba code on 16 channels at a time, the last inputs in registers.

Addresses are integers and strides count bytes; they follow the visits, so that a reversed convolution has the last
position's addresses and negative strides of time. A tap that is absent, because the kernel is narrower than 4
or the tap lies in another document, is left out and never multiplied by zero, so that it can't spread
infinities.
"""

from typing import Any, NamedTuple

from numba import njit, prange

from mambarium.kernels.layout import LANES
from mambarium.kernels.simd import (
    ROW_BYTES,
    add,
    fma,
    load,
    load_channels,
    load_int,
    mul,
    sigmoid,
    silu_slope,
    store,
    store_channels,
    zero_row,
)

# The kernels work on as many taps as the widest convolution has.
TAPS = 4
WEIGHT_ROWS = TAPS + 1


class Inputs(NamedTuple):
    """Sizes, addresses and strides; absent tensors have address 0.

    `direction` is 1 or, where positions are visited from the last to the first, -1; it is the sign of the strides of
    contiguous memory, which seq_idx (batch, length) and the kernels' results are. `weights`: (blocks, 5, 16), the taps
    from the newest to the oldest, then the bias.
    """

    batch: int
    length: int
    dim: int
    width: int
    silu: int
    direction: int
    x: int
    x_batch: int
    x_time: int
    weights: int
    seq_idx: int
    states: int
    states_batch: int
    states_time: int


class Gradients(NamedTuple):
    """The backward's incoming gradient and its outputs.

    x is (batch, length, dim) and states (batch, width - 1, dim), contiguous; weights one (blocks, 5, 16)
    per batch part, zero before.
    """

    batch_parts: int
    out: int
    out_batch: int
    out_time: int
    x: int
    states: int
    weights: int


@njit
def _has_tap(inputs: Inputs, documents: int, t: int, back: int) -> bool:
    """Whether position t sees the input `back` positions earlier; those before the start count as position 0."""
    if back >= inputs.width:
        return False
    if documents == 0:
        return True
    step = 4 * inputs.direction
    return load_int(documents + step * max(t - back, 0)) == load_int(documents + step * t)


@njit
def _earlier_input(inputs: Inputs, batch: int, channel: int, count: int, back: int) -> Any:
    """Return the input `back` positions before position 0."""
    if inputs.states == 0 or back >= inputs.width:
        return zero_row()
    row = inputs.width - 1 - back
    address = inputs.states + batch * inputs.states_batch + row * inputs.states_time + 4 * channel
    return load_channels(address, count)


@njit
def _forward_block(inputs: Inputs, batch: int, block: int, out: int) -> None:
    channel = block * LANES
    count = min(LANES, inputs.dim - channel)
    weights = inputs.weights + block * WEIGHT_ROWS * ROW_BYTES
    w0, w1 = load(weights), load(weights + ROW_BYTES)
    w2, w3 = load(weights + 2 * ROW_BYTES), load(weights + 3 * ROW_BYTES)
    bias = load(weights + 4 * ROW_BYTES)
    x1 = _earlier_input(inputs, batch, channel, count, 1)
    x2 = _earlier_input(inputs, batch, channel, count, 2)
    x3 = _earlier_input(inputs, batch, channel, count, 3)
    documents = inputs.seq_idx + 4 * batch * inputs.length if inputs.seq_idx != 0 else 0
    source = inputs.x + batch * inputs.x_batch + 4 * channel
    target = out + 4 * (batch * inputs.length * inputs.dim + channel)
    for t in range(inputs.length):
        x0 = load_channels(source + t * inputs.x_time, count)
        y = fma(w0, x0, bias)
        if _has_tap(inputs, documents, t, 1):
            y = fma(w1, x1, y)
        if _has_tap(inputs, documents, t, 2):
            y = fma(w2, x2, y)
        if _has_tap(inputs, documents, t, 3):
            y = fma(w3, x3, y)
        if inputs.silu:
            y = mul(y, sigmoid(y))
        store_channels(target + t * 4 * inputs.dim * inputs.direction, y, count)
        x3, x2, x1 = x2, x1, x0


@njit(parallel=True, nogil=True, cache=True)
def forward(arguments: tuple[int, ...], out: int, scratch: int) -> None:
    """Write out, (batch, length, dim), given by the first visit's row, and the values of `Inputs`."""
    inputs = Inputs(*arguments)
    blocks = (inputs.dim + LANES - 1) // LANES
    for item in prange(inputs.batch * blocks):
        _forward_block(inputs, item // blocks, item % blocks, out)


@njit
def _store_input_gradient(
    inputs: Inputs, gradients: Gradients, batch: int, channel: int, count: int, position: int, value: Any
) -> None:
    """Write the gradient of the input at a position, which may lie before 0, among the initial states."""
    if position >= 0:
        row = batch * inputs.length + position * inputs.direction
        store_channels(gradients.x + 4 * (row * inputs.dim + channel), value, count)
    elif gradients.states != 0 and position + inputs.width - 1 >= 0:
        row = batch * (inputs.width - 1) + position + inputs.width - 1
        store_channels(gradients.states + 4 * (row * inputs.dim + channel), value, count)


@njit
def _backward_block(inputs: Inputs, gradients: Gradients, batch: int, block: int, weight_gradients: int) -> None:
    """Go back through one block of one batch element; g1 to g3 are gradients of inputs that later steps add to."""
    channel = block * LANES
    count = min(LANES, inputs.dim - channel)
    weights = inputs.weights + block * WEIGHT_ROWS * ROW_BYTES
    w0, w1 = load(weights), load(weights + ROW_BYTES)
    w2, w3 = load(weights + 2 * ROW_BYTES), load(weights + 3 * ROW_BYTES)
    bias = load(weights + 4 * ROW_BYTES)
    grad_w0, grad_w1 = load(weight_gradients), load(weight_gradients + ROW_BYTES)
    grad_w2 = load(weight_gradients + 2 * ROW_BYTES)
    grad_w3 = load(weight_gradients + 3 * ROW_BYTES)
    grad_bias = load(weight_gradients + 4 * ROW_BYTES)
    x1 = _earlier_input(inputs, batch, channel, count, 1)
    x2 = _earlier_input(inputs, batch, channel, count, 2)
    x3 = _earlier_input(inputs, batch, channel, count, 3)
    g1 = zero_row()
    g2 = zero_row()
    g3 = zero_row()
    documents = inputs.seq_idx + 4 * batch * inputs.length if inputs.seq_idx != 0 else 0
    source = inputs.x + batch * inputs.x_batch + 4 * channel
    incoming = gradients.out + batch * gradients.out_batch + 4 * channel
    for t in range(inputs.length):
        x0 = load_channels(source + t * inputs.x_time, count)
        g = load_channels(incoming + t * gradients.out_time, count)
        has1 = _has_tap(inputs, documents, t, 1)
        has2 = _has_tap(inputs, documents, t, 2)
        has3 = _has_tap(inputs, documents, t, 3)
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
        _store_input_gradient(inputs, gradients, batch, channel, count, t - 3, g3)
        g3, g2, g1 = g2, g1, mul(w0, g)
        x3, x2, x1 = x2, x1, x0
    _store_input_gradient(inputs, gradients, batch, channel, count, inputs.length - 3, g3)
    _store_input_gradient(inputs, gradients, batch, channel, count, inputs.length - 2, g2)
    _store_input_gradient(inputs, gradients, batch, channel, count, inputs.length - 1, g1)
    store(weight_gradients, grad_w0)
    store(weight_gradients + ROW_BYTES, grad_w1)
    store(weight_gradients + 2 * ROW_BYTES, grad_w2)
    store(weight_gradients + 3 * ROW_BYTES, grad_w3)
    store(weight_gradients + 4 * ROW_BYTES, grad_bias)


@njit
def _backward_item(inputs: Inputs, gradients: Gradients, item: int) -> None:
    blocks = (inputs.dim + LANES - 1) // LANES
    batch_part = item // blocks
    first = inputs.batch * batch_part // gradients.batch_parts
    last = inputs.batch * (batch_part + 1) // gradients.batch_parts
    weight_gradients = gradients.weights + item * WEIGHT_ROWS * ROW_BYTES
    for batch in range(first, last):
        _backward_block(inputs, gradients, batch, item % blocks, weight_gradients)


@njit(parallel=True, nogil=True, cache=True)
def backward(arguments: tuple[int, ...], targets: tuple[int, ...], scratch: int) -> None:
    """Write the gradients, given the values of `Inputs` and `Gradients`; the weights' are sums over a batch part."""
    inputs, gradients = Inputs(*arguments), Gradients(*targets)
    blocks = (inputs.dim + LANES - 1) // LANES
    for item in prange(gradients.batch_parts * blocks):
        _backward_item(inputs, gradients, item)

"""What the scans for the CPU do with the states of a tile: numba code on 16 channels at a time.

A tile is a few steps of one block of 16 channels. Its rows, (steps, 16), hold what there is once per channel; its
matrices, (steps, d_state), are shared by the channels. The forward takes one state after another through the tile, each
in registers; the backward, which has more to do with each, takes one step after another for many states, with what
there is once per step in registers. A single state it takes as the forward does.

Addresses are integers and strides count bytes. Coefficients are A times log2(e) for the decays, exp(s * A) = 2 **
(s * A * log2(e)).
"""

from typing import Any, NamedTuple

from numba import njit

from mambarium.kernels.simd import (
    FLOAT_BYTES,
    PARTIAL_BYTES,
    PARTIAL_LANES,
    ROW_BYTES,
    add,
    all_below,
    bounded_exp2,
    exp2,
    fma,
    largest,
    load,
    load_byte,
    load_repeated,
    mul,
    store,
    store_partial_dot,
    store_sums,
    zero_row,
)

# How many states the backward takes through a tile at once: what it keeps of them fits into the second-level cache.
STATES_AT_ONCE = 16


class Tile(NamedTuple):
    """Sizes and addresses of a tile's inputs; without resets `reset` is 0.

    product_rows are the steps times the inputs, y_rows the outputs, to which the states' are added.
    """

    steps: int
    d_state: int
    coefficients: int
    step_rows: int
    product_rows: int
    y_rows: int
    B: int
    B_time: int
    C: int
    C_time: int
    reset: int
    reset_time: int


class Adjoint(NamedTuple):
    """Addresses of what the backward of a tile has besides.

    gradient_rows are the gradients of y; input_rows and decay_rows get the sums over states of G * B and of w *
    h[t - 1] * A, see `adjoint_states`. carry, A and grad_A are (d_state, 16). Scratch memory for up to STATES_AT_ONCE
    states at a time: history (steps + 1, states, 16) and decays (steps, states, 16); partial sums of a matrix's
    gradient, and the sums (steps, states); the tile's part of grad_A.
    """

    gradient_rows: int
    input_rows: int
    decay_rows: int
    carry: int
    A: int
    grad_A: int
    history: int
    decays: int
    partial: int
    sums: int
    A_sums: int


def adjoint_scratch_bytes(steps: int) -> tuple[int, ...]:
    """Sizes of an `Adjoint`'s history, decays, partial, sums and A_sums for tiles of so many steps."""
    vectors = steps * STATES_AT_ONCE
    padded = vectors + PARTIAL_LANES
    states = STATES_AT_ONCE * ROW_BYTES
    return vectors * ROW_BYTES + states, vectors * ROW_BYTES, padded * PARTIAL_BYTES, padded * FLOAT_BYTES, states


@njit
def clear_rows(address: int, count: int) -> None:
    """Set rows to zero."""
    for n in range(count):
        store(address + n * ROW_BYTES, zero_row())


@njit
def copy_rows(source: int, target: int, count: int) -> None:
    """Copy rows."""
    for n in range(count):
        store(target + n * ROW_BYTES, load(source + n * ROW_BYTES))


@njit
def is_reset(tile: Tile, t: int) -> bool:
    """Return whether the state is dropped before a step."""
    return tile.reset != 0 and load_byte(tile.reset + t * tile.reset_time) != 0


@njit
def has_bounded_decays(tile: Tile) -> bool:
    """Return whether the exponents of all decays are small enough for `bounded_exp2`."""
    step, coefficient = zero_row(), zero_row()
    for t in range(tile.steps):
        step = largest(step, load(tile.step_rows + t * ROW_BYTES))
    for n in range(tile.d_state):
        coefficient = largest(coefficient, load(tile.coefficients + n * ROW_BYTES))
    return all_below(mul(step, coefficient), 126)


def _advancing(power: Any) -> Any:
    @njit
    def advance(tile: Tile, n: int, state: int) -> None:
        a, h = load(tile.coefficients + n * ROW_BYTES), load(state + n * ROW_BYTES)
        B, C = tile.B + FLOAT_BYTES * n, tile.C + FLOAT_BYTES * n
        for t in range(tile.steps):
            row = t * ROW_BYTES
            if is_reset(tile, t):
                h = zero_row()
            decay = power(mul(load(tile.step_rows + row), a))
            h = fma(decay, h, mul(load(tile.product_rows + row), load_repeated(B + t * tile.B_time)))
            store(tile.y_rows + row, fma(h, load_repeated(C + t * tile.C_time), load(tile.y_rows + row)))
        store(state + n * ROW_BYTES, h)

    return advance


_advance_bounded, _advance_any = _advancing(bounded_exp2), _advancing(exp2)


@njit
def advance_states(tile: Tile, states: int) -> None:
    """Take the states (d_state, 16) through a tile and add their outputs to y_rows."""
    if has_bounded_decays(tile):
        for n in range(tile.d_state):
            _advance_bounded(tile, n, states)
    else:
        for n in range(tile.d_state):
            _advance_any(tile, n, states)


def _recomputing(power: Any) -> Any:
    @njit
    def recompute(tile: Tile, adjoint: Adjoint, checkpoint: int, first: int, last: int, with_y: bool) -> None:
        count = last - first
        copy_rows(checkpoint + first * ROW_BYTES, adjoint.history, count)
        coefficients = tile.coefficients + first * ROW_BYTES
        for t in range(tile.steps):
            row = t * ROW_BYTES
            before = adjoint.history + t * count * ROW_BYTES
            after = before + count * ROW_BYTES
            decays = adjoint.decays + t * count * ROW_BYTES
            partial = adjoint.partial + t * count * PARTIAL_BYTES
            if is_reset(tile, t):
                clear_rows(before, count)
            step, product = load(tile.step_rows + row), load(tile.product_rows + row)
            gradient = load(adjoint.gradient_rows + row)
            B = tile.B + t * tile.B_time + first * FLOAT_BYTES
            for n in range(count):
                place = n * ROW_BYTES
                decay = power(mul(step, load(coefficients + place)))
                store(decays + place, decay)
                h = fma(decay, load(before + place), mul(product, load_repeated(B + FLOAT_BYTES * n)))
                store(after + place, h)
                store_partial_dot(partial + n * PARTIAL_BYTES, gradient, h)
            if with_y:
                C = tile.C + t * tile.C_time + first * FLOAT_BYTES
                y = load(tile.y_rows + row)
                for n in range(count):
                    y = fma(load(after + n * ROW_BYTES), load_repeated(C + FLOAT_BYTES * n), y)
                store(tile.y_rows + row, y)

    return recompute


_recompute_bounded, _recompute_any = _recomputing(bounded_exp2), _recomputing(exp2)


def _recomputing_one(power: Any) -> Any:
    @njit
    def recompute_one(tile: Tile, adjoint: Adjoint, checkpoint: int, n: int, with_y: bool) -> None:
        a, h = load(tile.coefficients + n * ROW_BYTES), load(checkpoint + n * ROW_BYTES)
        B, C = tile.B + FLOAT_BYTES * n, tile.C + FLOAT_BYTES * n
        for t in range(tile.steps):
            row = t * ROW_BYTES
            if is_reset(tile, t):
                h = zero_row()
            store(adjoint.history + row, h)
            decay = power(mul(load(tile.step_rows + row), a))
            store(adjoint.decays + row, decay)
            h = fma(decay, h, mul(load(tile.product_rows + row), load_repeated(B + t * tile.B_time)))
            store_partial_dot(adjoint.partial + t * PARTIAL_BYTES, load(adjoint.gradient_rows + row), h)
            if with_y:
                store(tile.y_rows + row, fma(h, load_repeated(C + t * tile.C_time), load(tile.y_rows + row)))

    return recompute_one


_recompute_one_bounded, _recompute_one_any = _recomputing_one(bounded_exp2), _recomputing_one(exp2)


@njit
def recompute_states(
    tile: Tile, adjoint: Adjoint, checkpoint: int, first: int, last: int, bounded: bool, with_y: bool
) -> None:
    """Take states `first` to `last` through a tile again, from a checkpoint (d_state, 16).

    Keeps their decays and the state before each step in the scratch memory, puts the sums over channels of
    gradient * h, the gradient of C, into the sums, and adds to y_rows if asked to. `bounded` is what
    `has_bounded_decays` says.
    """
    if last - first == 1:
        if bounded:
            _recompute_one_bounded(tile, adjoint, checkpoint, first, with_y)
        else:
            _recompute_one_any(tile, adjoint, checkpoint, first, with_y)
    elif bounded:
        _recompute_bounded(tile, adjoint, checkpoint, first, last, with_y)
    else:
        _recompute_any(tile, adjoint, checkpoint, first, last, with_y)
    _add_up(adjoint, tile.steps * (last - first))


@njit
def adjoint_states(tile: Tile, adjoint: Adjoint, first: int, last: int) -> None:
    """Run the adjoint recurrence of states `first` to `last` over a tile, last step first, after `recompute_states`.

    With G[t] the gradient of h[t] and w[t] = decay[t] * G[t], which is carried to h[t - 1]: adds the sums over states
    of G * B to input_rows and of w * h[t - 1] * A to decay_rows, adds w * h[t - 1] * step to the gradient of A, and
    puts the sums over channels of G * product, the gradient of B, into the sums.
    """
    if last - first == 1:
        _adjoint_one(tile, adjoint, first)
    else:
        _adjoint_many(tile, adjoint, first, last)
    _add_up(adjoint, tile.steps * (last - first))


@njit
def _adjoint_one(tile: Tile, adjoint: Adjoint, n: int) -> None:
    place = n * ROW_BYTES
    carried, a, grad_a = load(adjoint.carry + place), load(adjoint.A + place), zero_row()
    B, C = tile.B + FLOAT_BYTES * n, tile.C + FLOAT_BYTES * n
    for back in range(tile.steps):
        t = tile.steps - 1 - back
        row = t * ROW_BYTES
        G = fma(load(adjoint.gradient_rows + row), load_repeated(C + t * tile.C_time), carried)
        store_partial_dot(adjoint.partial + t * PARTIAL_BYTES, G, load(tile.product_rows + row))
        through_input = load(adjoint.input_rows + row)
        store(adjoint.input_rows + row, fma(G, load_repeated(B + t * tile.B_time), through_input))
        carried = mul(load(adjoint.decays + row), G)
        change = mul(carried, load(adjoint.history + row))
        store(adjoint.decay_rows + row, fma(change, a, load(adjoint.decay_rows + row)))
        grad_a = fma(change, load(tile.step_rows + row), grad_a)
        if is_reset(tile, t):
            carried = zero_row()
    store(adjoint.carry + place, carried)
    store(adjoint.grad_A + place, add(load(adjoint.grad_A + place), grad_a))


@njit
def _adjoint_many(tile: Tile, adjoint: Adjoint, first: int, last: int) -> None:
    count = last - first
    offset = first * ROW_BYTES
    carry, A, grad_A = adjoint.carry + offset, adjoint.A + offset, adjoint.grad_A + offset
    clear_rows(adjoint.A_sums, count)
    for back in range(tile.steps):
        t = tile.steps - 1 - back
        row = t * ROW_BYTES
        before = adjoint.history + t * count * ROW_BYTES
        decays = adjoint.decays + t * count * ROW_BYTES
        partial = adjoint.partial + t * count * PARTIAL_BYTES
        step, product = load(tile.step_rows + row), load(tile.product_rows + row)
        gradient = load(adjoint.gradient_rows + row)
        through_input, through_decay = load(adjoint.input_rows + row), load(adjoint.decay_rows + row)
        B = tile.B + t * tile.B_time + first * FLOAT_BYTES
        C = tile.C + t * tile.C_time + first * FLOAT_BYTES
        for n in range(count):
            place = n * ROW_BYTES
            G = fma(gradient, load_repeated(C + FLOAT_BYTES * n), load(carry + place))
            store_partial_dot(partial + n * PARTIAL_BYTES, G, product)
            through_input = fma(G, load_repeated(B + FLOAT_BYTES * n), through_input)
            carried = mul(load(decays + place), G)
            store(carry + place, carried)
            change = mul(carried, load(before + place))
            through_decay = fma(change, load(A + place), through_decay)
            store(adjoint.A_sums + place, fma(change, step, load(adjoint.A_sums + place)))
        if is_reset(tile, t):
            clear_rows(carry, count)
        store(adjoint.input_rows + row, through_input)
        store(adjoint.decay_rows + row, through_decay)
    for n in range(count):  # tile by tile, as the error of a sum one by one grows with the length
        place = n * ROW_BYTES
        store(grad_A + place, add(load(grad_A + place), load(adjoint.A_sums + place)))


@njit
def _add_up(adjoint: Adjoint, count: int) -> None:
    for i in range(0, count, PARTIAL_LANES):
        store_sums(adjoint.partial + i * PARTIAL_BYTES, adjoint.sums + i * FLOAT_BYTES)

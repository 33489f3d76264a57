"""How CPU kernels read and write tensors of any strides: by rows of 16 channels, a few steps at a time.

Kernels work on rows in scratch memory, (steps, 16). `load_rows` fills them and `store_rows` writes them back. Where
channels are adjacent in memory a row is one vector; where steps are, 16 rows are transposed in registers; all else goes
number by number. What a step is follows from the strides: a position, a state of a matrix, a tap of a convolution.

Arguments come as named tuples also because numba compiles a function anew for each literal that it is given, but not
for those in a tuple; for the same reason kernels make the index of a `prange`, unsigned within it, an int64.

Steps visit positions one after another, or in an order: the address of int32 positions, or None. Which of the two a
kernel does is known when it is compiled. Addresses are integers and strides count bytes.
"""

from typing import Any, NamedTuple

from numba import njit

from mambarium.kernels.layout import LANES
from mambarium.kernels.simd import (
    FLOAT_BYTES,
    ROW_BYTES,
    add,
    copy_float,
    keep_small,
    load,
    load_channels,
    load_int,
    load_some,
    prefetch,
    store,
    store_channels,
    store_some,
    transpose_rows,
    zero_row,
)

# Two squares of 16 rows, for what isn't whole.
PAD_BYTES = 2 * LANES * ROW_BYTES


class Rows(NamedTuple):
    """Where a float32 tensor lies: its address, 0 if it is absent, and the bytes along its axes.

    The address is that of the first step, and the bytes from one step to the next may be negative.
    """

    address: int
    batch: int
    time: int
    group: int
    channel: int


class Channels(NamedTuple):
    """Up to 16 channels of a group of a batch element: the first of them, counted within the group, and how many."""

    batch: int
    group: int
    first: int
    number: int


class Steps(NamedTuple):
    """Some of the steps that there are: the first, how many, the length of all.

    The rows `ahead` steps away are asked for, unless it is 0: they lie apart and orders jump, which processors don't
    foresee.
    """

    start: int
    number: int
    length: int
    ahead: int


class Buffer(NamedTuple):
    """Rows in scratch memory: their address, the bytes from one to the next, and PAD_BYTES of memory.

    `adds` is 1 if `store_rows` is to add them to what is there, else 0.
    """

    rows: int
    row_bytes: int
    pad: int
    adds: int


@njit
def rows_at(x: Rows, batch: int, group: int, channel: int) -> int:
    """Return the address of the first step of a batch element's channel, counted within its group."""
    return x.address + batch * x.batch + group * x.group + channel * x.channel


@njit
def visited(order: int | None, step: int) -> int:
    """Return the position of a step, the step itself without an order."""
    if order is None:
        return step
    return load_int(order + 4 * step)


@njit
def _upcoming(order: int | None, steps: Steps, step: int) -> int:
    """Return the position that comes after a step, which may lie outside the sequence, with an order the nearest."""
    later = steps.start + step + steps.ahead
    if order is None:
        return later
    return load_int(order + 4 * max(0, min(later, steps.length - 1)))


@njit
def _adjacency(x: Rows, order: int | None, start: int, count: int) -> int:
    """Return 1 where so many steps follow each other in memory, -1 where they do backwards, else 0."""
    if abs(x.time) != FLOAT_BYTES:
        return 0
    first = visited(order, start)
    direction = 1 if count == 1 else visited(order, start + 1) - first
    if abs(direction) != 1:
        return 0
    if order is not None:
        for t in range(2, count):
            if visited(order, start + t) != first + t * direction:
                return 0
    return direction if x.time > 0 else -direction


@njit
def load_rows(x: Rows, channels: Channels, order: Any, steps: Steps, buffer: Buffer) -> None:
    """Fill rows with steps of up to 16 channels; lanes beyond them become zero, all if x is absent."""
    keep_small()
    if x.address == 0:
        for t in range(steps.number):
            store(buffer.rows + t * buffer.row_bytes, zero_row())
        return
    place = rows_at(x, channels.batch, channels.group, channels.first)
    if x.channel == FLOAT_BYTES and channels.number > 1:
        for t in range(steps.number):
            source = place + visited(order, steps.start + t) * x.time
            prefetch(place + _upcoming(order, steps, t) * x.time)
            store(buffer.rows + t * buffer.row_bytes, load_channels(source, channels.number))
        return
    for first in range(0, steps.number, LANES):
        count = min(LANES, steps.number - first)
        start, target = steps.start + first, buffer.rows + first * buffer.row_bytes
        if steps.ahead != 0:
            later = place + _upcoming(order, steps, first) * x.time
            for c in range(channels.number):
                prefetch(later + c * x.channel)
        direction = 0 if channels.number == 1 else _adjacency(x, order, start, count)
        if direction == 0:
            for t in range(count):
                source = place + visited(order, start + t) * x.time
                store(target + t * buffer.row_bytes, zero_row())
                for c in range(channels.number):
                    copy_float(source + c * x.channel, target + t * buffer.row_bytes + c * FLOAT_BYTES, False)
            continue
        lowest, row, between = start, target, buffer.row_bytes
        if direction < 0:
            lowest, row, between = start + count - 1, target + (count - 1) * between, -between
        source = place + visited(order, lowest) * x.time
        whole = channels.number == LANES and count == LANES
        square, turned, square_bytes, turned_bytes = source, row, x.channel, between
        if not whole:
            square, turned, square_bytes, turned_bytes = buffer.pad, buffer.pad + PAD_BYTES // 2, ROW_BYTES, ROW_BYTES
            for c in range(LANES):
                value = load_some(source + c * x.channel, count) if c < channels.number else zero_row()
                store(square + c * ROW_BYTES, value)
        transpose_rows(square, square_bytes, turned, turned_bytes)
        if not whole:
            for t in range(count):
                store(row + t * between, load(turned + t * ROW_BYTES))


@njit
def store_rows(x: Rows, channels: Channels, order: Any, steps: Steps, buffer: Buffer) -> None:
    """Write rows as steps of up to 16 channels, or add them to what is there; nothing if x is absent."""
    keep_small()
    if x.address == 0:
        return
    place = rows_at(x, channels.batch, channels.group, channels.first)
    if x.channel == FLOAT_BYTES and channels.number > 1:
        for t in range(steps.number):
            target = place + visited(order, steps.start + t) * x.time
            value = load(buffer.rows + t * buffer.row_bytes)
            if buffer.adds:
                value = add(value, load_channels(target, channels.number))
            store_channels(target, value, channels.number)
        return
    for first in range(0, steps.number, LANES):
        count = min(LANES, steps.number - first)
        start, source = steps.start + first, buffer.rows + first * buffer.row_bytes
        direction = 0 if channels.number == 1 else _adjacency(x, order, start, count)
        if direction == 0:
            for t in range(count):
                target = place + visited(order, start + t) * x.time
                for c in range(channels.number):
                    copy_float(source + t * buffer.row_bytes + c * FLOAT_BYTES, target + c * x.channel, buffer.adds)
            continue
        lowest, row, between = start, source, buffer.row_bytes
        if direction < 0:
            lowest, row, between = start + count - 1, source + (count - 1) * between, -between
        target = place + visited(order, lowest) * x.time
        whole = channels.number == LANES and count == LANES and not buffer.adds
        square, turned, square_bytes, turned_bytes = row, target, between, x.channel
        if not whole:
            square, turned, square_bytes, turned_bytes = buffer.pad, buffer.pad + PAD_BYTES // 2, ROW_BYTES, ROW_BYTES
            for t in range(count):
                store(square + t * ROW_BYTES, load(row + t * between))
        transpose_rows(square, square_bytes, turned, turned_bytes)
        if not whole:
            for c in range(channels.number):
                value = load(turned + c * ROW_BYTES)
                if buffer.adds:
                    value = add(value, load_some(target + c * x.channel, count))
                store_some(target + c * x.channel, value, count)


@njit
def place_rows(x: Rows, channels: Channels, order: Any, steps: Steps, buffer: Buffer) -> tuple[int, int]:
    """Return the address of rows of steps, and the bytes between them: where they lie if that can be, or the buffer's.

    16 adjacent channels that are visited one after another need no buffer.
    """
    if order is None and x.channel == FLOAT_BYTES and channels.number == LANES and x.address != 0:
        return rows_at(x, channels.batch, channels.group, channels.first) + steps.start * x.time, x.time
    return buffer.rows, buffer.row_bytes


@njit
def read_rows(x: Rows, channels: Channels, order: Any, steps: Steps, buffer: Buffer) -> tuple[int, int]:
    """Return what `place_rows` does, after filling the buffer if it is needed."""
    rows, row_bytes = place_rows(x, channels, order, steps, buffer)
    if rows == buffer.rows:
        load_rows(x, channels, order, steps, buffer)
    return rows, row_bytes


@njit
def write_rows(x: Rows, channels: Channels, order: Any, steps: Steps, buffer: Buffer, rows: int) -> None:
    """Write rows that were filled where `place_rows` said, if that was the buffer."""
    if rows == buffer.rows:
        store_rows(x, channels, order, steps, buffer)


@njit
def add_parts(parts: int, count: int, size: int, apart: int) -> None:
    """Add up parts of so many bytes, whole rows, into the first: halving how many there are, whatever the threads."""
    while count > 1:
        half = count // 2
        for part in range(half):
            target = parts + part * apart
            source = target + (count - half) * apart
            for offset in range(0, size, ROW_BYTES):
                store(target + offset, add(load(target + offset), load(source + offset)))
        count -= half

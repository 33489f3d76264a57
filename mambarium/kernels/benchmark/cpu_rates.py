"""Loops of one kind of arithmetic, for what a CPU can do of it at most."""

from typing import Any

import numba
from numba import njit, prange

from mambarium.kernels.simd import ROW_BYTES, bounded_exp2, fma, load, store, zero_row

REPETITIONS = 1000
ROWS = 64
SCRATCH_BYTES = 2 * ROWS * ROW_BYTES


@njit
def _six_chains(address: int, factor: Any) -> None:
    """As many independent rows as 16 registers of 8 lanes can hold."""
    a, b, c = load(address), load(address + ROW_BYTES), load(address + 2 * ROW_BYTES)
    d = load(address + 3 * ROW_BYTES)
    e, f = load(address + 4 * ROW_BYTES), load(address + 5 * ROW_BYTES)
    for _ in range(REPETITIONS * ROWS):
        a, b, c = fma(a, factor, factor), fma(b, factor, factor), fma(c, factor, factor)
        d, e, f = fma(d, factor, factor), fma(e, factor, factor), fma(f, factor, factor)
    for i, x in enumerate((a, b, c, d, e, f)):
        store(address + i * ROW_BYTES, x)


@njit
def _ten_chains(address: int, factor: Any) -> None:
    """As many as keep two pipelines of 16 lanes busy."""
    a, b, c = load(address), load(address + ROW_BYTES), load(address + 2 * ROW_BYTES)
    d, e = load(address + 3 * ROW_BYTES), load(address + 4 * ROW_BYTES)
    f, g = load(address + 5 * ROW_BYTES), load(address + 6 * ROW_BYTES)
    h, i, j = (
        load(address + 7 * ROW_BYTES),
        load(address + 8 * ROW_BYTES),
        load(address + 9 * ROW_BYTES),
    )
    for _ in range(REPETITIONS * ROWS):
        a, b, c = fma(a, factor, factor), fma(b, factor, factor), fma(c, factor, factor)
        d, e, f = fma(d, factor, factor), fma(e, factor, factor), fma(f, factor, factor)
        g, h = fma(g, factor, factor), fma(h, factor, factor)
        i, j = fma(i, factor, factor), fma(j, factor, factor)
    for k, x in enumerate((a, b, c, d, e, f, g, h, i, j)):
        store(address + k * ROW_BYTES, x)


@njit
def _exponentials(address: int) -> None:
    """Independent of each other, from and to the first-level cache."""
    for _ in range(REPETITIONS):
        for i in range(ROWS):
            x = load(address + i * ROW_BYTES)
            store(address + (ROWS + i) * ROW_BYTES, bounded_exp2(x))


@njit
def _clear(address: int) -> None:
    for i in range(2 * ROWS):
        store(address + i * ROW_BYTES, zero_row())


@njit(parallel=True, nogil=True, cache=True)
def multiply_add(chains: int, threads: int, scratch: int) -> None:
    """On each thread REPETITIONS * ROWS times 6 or 10 rows of multiplications and additions."""
    for _ in prange(threads):
        address = scratch + numba.get_thread_id() * SCRATCH_BYTES
        _clear(address)
        factor = load(address)
        if chains == 6:
            _six_chains(address, factor)
        else:
            _ten_chains(address, factor)


@njit(parallel=True, nogil=True, cache=True)
def exponentials(threads: int, scratch: int) -> None:
    """On each thread REPETITIONS * ROWS rows of powers of two."""
    for _ in prange(threads):
        address = scratch + numba.get_thread_id() * SCRATCH_BYTES
        _clear(address)
        _exponentials(address)

"""Kernels of one kind of arithmetic, for what a GPU can do of it at most."""

# Kernels are written in the language of Triton.
# mypy: ignore-errors

import triton
import triton.language as tl

STEPS = 4096
CHAINS = 8
UNROLL = 16
WARPS = 4
BLOCK = 32 * WARPS * CHAINS


@triton.jit
def multiply_add_kernel(out, factor, steps, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    """Each lane runs CHAINS independent chains of multiplications and additions."""
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = lanes.to(tl.float32)
    for _ in range(steps // UNROLL):
        for _ in tl.static_range(UNROLL):  # the loop itself takes instructions too
            x = x * factor + factor
    tl.store(out + lanes, x)


@triton.jit
def exponential_kernel(out, steps, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    """Each lane runs CHAINS independent chains of powers of two."""
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = lanes.to(tl.float32)
    for _ in range(steps // UNROLL):
        for _ in tl.static_range(UNROLL):
            x = tl.exp2(-x)
    tl.store(out + lanes, x)

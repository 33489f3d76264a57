"""Kernels of one kind of arithmetic, for what a GPU can do of it at most."""

import triton
import triton.language as tl

STEPS = 4096
CHAINS = 8
WARPS = 4
BLOCK = 32 * WARPS * CHAINS


@triton.jit
def multiply_add_kernel(out, factor, steps, BLOCK: tl.constexpr):
    """Each lane runs CHAINS independent chains of multiplications and additions."""
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = lanes.to(tl.float32)
    for _ in range(steps):
        x = x * factor + factor
    tl.store(out + lanes, x)


@triton.jit
def exponential_kernel(out, steps, BLOCK: tl.constexpr):
    """Each lane runs CHAINS independent chains of powers of two."""
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = lanes.to(tl.float32)
    for _ in range(steps):
        x = tl.exp2(-x)
    tl.store(out + lanes, x)

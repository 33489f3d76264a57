"""Keeping the memory of freed tensors in the process."""

import ctypes
import ctypes.util
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc accepts no more."""


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory instead of returning it to the system after each large tensor.

    Training on a CPU allocates the same large tensors at every step. By default each gets fresh pages, which the kernel
    must clear first.

    Returns:
        Whether it was set: only on Linux with glibc.
    """
    if sys.platform != "linux" or not (name := ctypes.util.find_library("c")):
        return False
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))

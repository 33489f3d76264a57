"""What this machine can do at most, measured on the spot, and how long a case takes it at that."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mambarium.kernels.benchmark.cases import Case, Direction

# The best of so many attempts counts, of fewer when they take longer in all.
ATTEMPTS, ATTEMPTS_SECONDS = 60, 0.5
GPU_COPY_BYTES = 2**30
# Smaller copies than this have too little time to be timed.
SMALLEST_CPU_COPY_BYTES = 2**20


@dataclass(frozen=True)
class Limits:
    """Rates per second that were measured, the best of many short attempts each."""

    device: torch.device
    exponentials: float
    operations: float
    """float32 instructions times lanes: a multiplication with addition counts as one."""

    def bandwidth(self, size: float) -> float:
        """Bytes per second, read and written, of copying that touches so many bytes in all.

        A GPU's is that of its memory; a CPU's depends on the cache that the bytes fit into.
        """
        if self.device.type == "cuda":
            return _copy_bandwidth(GPU_COPY_BYTES, self.device)
        nearest = 1 << max(SMALLEST_CPU_COPY_BYTES, round(size)).bit_length() - 1
        return _copy_bandwidth(nearest, self.device)

    def milliseconds(self, case: Case, direction: Direction) -> float:
        """Return the least time that a case can take.

        A GPU has units of their own for memory, exponentials and arithmetic, which work at once: the slowest decides,
        for the forward and for the backward. On a CPU exponentials are arithmetic too, and their times add up.
        """
        forward = case.work("forward")
        parts = [forward]
        if direction == "forward+backward":
            parts.append(case.work(direction) - forward)
        total = 0.0
        for work in parts:
            exponentials, operations = work.exponentials / self.exponentials, work.operations / self.operations
            memory = work.bytes / self.bandwidth(work.bytes)
            if self.device.type == "cuda":
                total += max(memory, exponentials, operations)
            else:
                total += max(memory, exponentials + operations)
        return 1e3 * total

    def __str__(self) -> str:
        """Return the rates in one line."""
        size = GPU_COPY_BYTES if self.device.type == "cuda" else 2**26
        return (
            f"{self.exponentials / 1e9:.3g} G exponentials/s, {self.operations / 1e9:.3g} G float32 operations/s, "
            f"{self.bandwidth(size) / 1e9:.3g} GB/s of memory"
        )


def measure_limits(device: torch.device) -> Limits:
    """Measure a device's rates, which takes a second or two, compilation aside."""
    return _gpu_limits(device) if device.type == "cuda" else _cpu_limits(device)


def _cpu_limits(device: torch.device) -> Limits:
    from mambarium.kernels.numba_runtime import import_kernels, run_kernel

    kernels = import_kernels("mambarium.kernels.benchmark.cpu_rates")
    threads = torch.get_num_threads()
    rows = threads * kernels.REPETITIONS * kernels.ROWS * 16

    def run(kernel: str, *arguments: int) -> None:
        run_kernel(kernels, kernel, *arguments, threads, scratch_bytes=kernels.SCRATCH_BYTES)

    six = _best_seconds(lambda: run("multiply_add", 6), device)
    ten = _best_seconds(lambda: run("multiply_add", 10), device)
    exponentials = _best_seconds(lambda: run("exponentials"), device)
    return Limits(device, rows / exponentials, rows * max(6 / six, 10 / ten))


def _gpu_limits(device: torch.device) -> Limits:
    from mambarium.kernels.benchmark import gpu_rates

    programs = 16 * torch.cuda.get_device_properties(device).multi_processor_count
    out = torch.empty(programs * gpu_rates.BLOCK, dtype=torch.float32, device=device)
    done = float(out.numel() * gpu_rates.STEPS)
    size = {"BLOCK": gpu_rates.BLOCK, "UNROLL": gpu_rates.UNROLL, "num_warps": gpu_rates.WARPS}
    with torch.cuda.device(device):
        exponentials = _best_seconds(
            lambda: gpu_rates.exponential_kernel[(programs,)](out, gpu_rates.STEPS, **size), device
        )
        operations = _best_seconds(
            lambda: gpu_rates.multiply_add_kernel[(programs,)](out, 0.5, gpu_rates.STEPS, **size), device
        )
    return Limits(device, done / exponentials, done / operations)


@functools.cache
def _copy_bandwidth(size: int, device: torch.device) -> float:
    source = torch.ones(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return size / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(call: Callable[[], object], device: torch.device) -> float:
    call()
    best = float("inf")
    first = time.perf_counter()
    for attempt in range(ATTEMPTS):
        if attempt >= 5 and time.perf_counter() - first > ATTEMPTS_SECONDS:
            break
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        else:
            begin, processor = time.perf_counter(), time.process_time()
            call()
            seconds = time.perf_counter() - begin
            if torch.get_num_threads() == 1:  # Linux adds other threads' time only every few milliseconds
                seconds = min(seconds, time.process_time() - processor)  # other programs take from the first only
        best = min(best, seconds)
    return best

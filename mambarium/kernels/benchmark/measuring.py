"""Times and peak memory of calls that stand in competition."""

import ctypes
import ctypes.util
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from mambarium.kernels.benchmark.cases import Direction
from mambarium.kernels.benchmark.peers import Peer, Tensors

# A turn of a fast call is repeated until it has taken so long, so that it is more than the switch to it.
TURN_SECONDS = 0.03
# Between two calls a GPU overwrites more than its second-level cache holds, and long enough for Python to get ahead
# of it: what Python takes to start a call is not counted then.
FLUSH_BYTES, FLUSHES = 256 * 2**20, 8

Call = Callable[[], object]


class Timing(NamedTuple):
    """Times of one call in milliseconds.

    The processor times are those of all threads of the process, and None on a GPU. Where one thread computes they are
    what the call takes without the other programs that share the machine.
    """

    samples: int
    median: float
    best: float
    processor_median: float | None
    processor_best: float | None


class Sample(NamedTuple):
    """One call's seconds."""

    wall: float
    processor: float | None


def make_call(peer: Peer, inputs: Tensors, direction: Direction) -> Call:
    """Return a call of a peer on inputs in the layout that it prefers.

    Forward and backward gives the gradients of all inputs; the forward alone runs without gradients.
    """
    arranged = {name: x.detach().requires_grad_(direction != "forward") for name, x in peer.arrange(inputs).items()}
    if direction == "forward":

        def forward() -> object:
            with torch.no_grad():
                return peer.call(arranged)

        return forward

    leaves = list(arranged.values())
    grad_out = torch.ones_like(peer.call(arranged).detach())

    def both() -> object:
        return torch.autograd.grad(peer.call(arranged), leaves, grad_out)

    return both


def measure_times(calls: Mapping[str, Call], device: torch.device, rounds: int, seconds: float) -> dict[str, Timing]:
    """Time calls in turns, so that all meet the same state of the machine.

    Args:
        calls: by name; each is run once more, untimed, at the start of each of its turns.
        device: where they run.
        rounds: turns of each call.
        seconds: no further round starts after so long, but for a second one.

    Returns:
        Their times, by name.
    """
    take_turn = _TurnOnGPU(device) if device.type == "cuda" else _turn_on_cpu
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    names = list(calls)
    start = time.perf_counter()
    for index in range(rounds):
        if index >= 2 and time.perf_counter() - start > seconds:
            break
        for name in names:
            samples[name] += take_turn(calls[name])
        names = names[1:] + names[:1]
    return {name: _summary(found) for name, found in samples.items()}


def _summary(samples: list[Sample]) -> Timing:
    wall = [1e3 * sample.wall for sample in samples]
    processor = [1e3 * sample.processor for sample in samples if sample.processor is not None]
    return Timing(
        len(samples),
        statistics.median(wall),
        min(wall),
        statistics.median(processor) if processor else None,
        min(processor) if processor else None,
    )


def _turn_on_cpu(call: Call) -> list[Sample]:
    begin = time.perf_counter()
    call()
    if time.perf_counter() - begin > 1:  # too slow for what the switch costs to matter
        return [_sample_on_cpu(call)]
    samples: list[Sample] = []
    begin = time.perf_counter()
    while not samples or time.perf_counter() - begin < TURN_SECONDS:
        samples.append(_sample_on_cpu(call))
    return samples


def _sample_on_cpu(call: Call) -> Sample:
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    sample = Sample(time.perf_counter() - wall, time.process_time() - processor)
    del result
    return sample


class _TurnOnGPU:
    """Several calls, each after the second-level cache was overwritten, timed on the GPU itself."""

    CALLS = 5

    def __init__(self, device: torch.device) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, call: Call) -> list[Sample]:
        call()
        events = []
        for _ in range(self.CALLS):
            for _ in range(FLUSHES):
                self._flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize(self._flush.device)
        return [Sample(start.elapsed_time(end) / 1e3, None) for start, end in events]


def measure_peak_memory(call: Call, device: torch.device) -> int | None:
    """Bytes that a call takes at most, beyond what was there before it.

    On a GPU those of torch's allocator. On a CPU resident memory of the process, scratch memory included: that needs
    Linux.

    Returns:
        The bytes, or None where they can't be known.
    """
    call()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and _return_freed_memory()):
        return None
    try:
        reset.write_text("5")  # the high-water mark becomes what is resident now
    except OSError:
        return None
    before = _status_bytes(status, "VmRSS")
    result = call()
    peak = _status_bytes(status, "VmHWM")
    del result
    return max(0, peak - before)


def _return_freed_memory() -> bool:
    """Have glibc give freed memory back, so that using it again is seen."""
    name = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(name), "malloc_trim", None) if name else None
    if trim is None:
        return False
    trim(0)
    return True


def _status_bytes(status: Path, field: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{status}: expected a line {field}")

"""Measured choices for the scan's Triton kernels, for those who ask for them."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from mambarium.kernels.scan.description import Gradients, Scan
from mambarium.kernels.scan.triton_launches import run_backward, run_forward
from mambarium.kernels.triton_configuration import (
    BACKWARD_TILE,
    MAX_STATES,
    TUNED,
    ScanConfiguration,
    count_processors,
    plan_segments,
)


def tune_selective_scan(
    batch: int,
    dim: int,
    length: int,
    d_state: int,
    groups: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cuda",
    repeats: int = 20,
) -> ScanConfiguration:
    """Time the layouts of the scan's kernels and keep the fastest for this size in this process.

    Later calls of `selective_scan`, and of `grid_scan` with dim the channels of all routes and groups the routes, use
    it for the same sizes. Other layouts add up gradients in another order: results are the same from run to run with
    the same configuration only, and differ by rounding between configurations.

    Args:
        batch: batch elements.
        dim: channels.
        length: positions.
        d_state: states per channel.
        groups: of B and C.
        dtype: of u, delta, B and C.
        device: the GPU.
        repeats: calls of which the median counts.

    Returns:
        The fastest configuration.

    Raises:
        ValueError: if there are more states than one kernel takes; the scan then runs in slices of them.
    """
    if d_state > MAX_STATES:
        raise ValueError(f"d_state: expected at most {MAX_STATES}, which one kernel takes, found {d_state}")
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    scan = Scan(
        normal(batch, length, dim),
        normal(batch, length, dim),
        -torch.rand(dim, d_state, generator=generator, device=device),
        normal(batch, length, groups, d_state),
        normal(batch, length, groups, d_state),
        delta_softplus=True,
    )
    out = torch.empty_like(scan.u)
    inputs = (getattr(scan, name) for name in Gradients._fields)
    memory: Any = (None if x is None else torch.empty_like(x) for x in inputs)
    gradients = Gradients(*memory)
    last_state, checkpoints = run_forward(scan, out, True)
    processors = count_processors(device)
    key_batch = batch * plan_segments(batch, length, dim, groups, processors).number
    key = (key_batch, length, dim, groups, d_state, processors)
    # Of d_state 32 two channels per lane would not fit into the forward's registers.
    lanes = (1, 2) if d_state <= 16 else (1,)
    tiles = sorted({max(1, BACKWARD_TILE // parts) for parts in (4, 2, 1)})
    forwards = [ScanConfiguration(tile, channels, 1) for tile, channels in itertools.product(tiles, lanes)]

    def fastest(candidates: list[ScanConfiguration], call: Callable[[], object]) -> ScanConfiguration:
        times = []
        for candidate in candidates:
            TUNED[key] = candidate
            times.append(_median_time(call, device, repeats))
        return candidates[times.index(min(times))]

    TUNED.pop(key, None)
    try:
        best = fastest(forwards, lambda: run_forward(scan, out, True))
        backwards = [best._replace(backward_channels=channels) for channels in (1, 2)]
        best = fastest(backwards, lambda: run_backward(scan, out, last_state, checkpoints, gradients))
    except BaseException:
        TUNED.pop(key, None)
        raise
    TUNED[key] = best
    return best


def _median_time(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one call, the first of which compiles."""
    call()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]

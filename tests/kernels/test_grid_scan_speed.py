"""Time and memory of the grid scan against flips, transposes and `selective_scan`.

The grids are those of VMamba's stages at 224 x 224: python -m pytest -m slow -s tests/kernels/test_grid_scan_speed.py
"""

import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mambarium.kernels import CROSS, grid_scan, selective_scan

REPEATS = 12


def with_index_maps(x, delta, A, B, C, D, bias):
    """x (batch, height, width, dim), the others (batch, height, width, 4, ...)."""
    delta, B, C = (values.permute(0, 3, 4, 1, 2) for values in (delta, B, C))
    return grid_scan(x.permute(0, 3, 1, 2), delta, A, B, C, D, bias, True, routes=CROSS)


def with_copies_channel_last(x, delta, A, B, C, D, bias):
    """Routes one after another in channel-last memory; delta, B and C are taken to be in each route's order."""
    batch, height, width, dim = x.shape
    rows, columns = x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)
    routes = torch.cat([rows, columns, rows.flip(1), columns.flip(1)], -1)
    delta = delta.flatten(3).flatten(1, 2)
    B, C = (values.flatten(1, 2).permute(0, 2, 3, 1) for values in (B, C))
    out = selective_scan(
        routes.transpose(1, 2), delta.transpose(1, 2), A.flatten(0, 1), B, C, D.flatten(), None, bias.flatten(), True
    )
    y = out.transpose(1, 2).unflatten(2, (4, dim))
    rows, columns = (y[:, :, i] + y[:, :, i + 2].flip(1) for i in range(2))
    return rows.view(batch, height, width, dim) + columns.view(batch, width, height, dim).transpose(1, 2)


def with_copies_as_published(x, delta, A, B, C, D, bias):
    """VMamba's cross-scan and cross-merge: x (batch, dim, height, width), routes stacked to (batch, 4, dim, length)."""
    batch, dim, height, width = x.shape
    two = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
    routes = torch.cat([two, two.flip(-1)], 1)
    out = selective_scan(
        routes.flatten(1, 2), delta.flatten(1, 2), A.flatten(0, 1), B, C, D.flatten(), None, bias.flatten(), True
    )
    y = out.view(batch, 4, dim, -1)
    y = y[:, :2] + y[:, 2:].flip(-1)
    return y[:, 0].view(batch, dim, height, width) + y[:, 1].view(batch, dim, width, height).transpose(2, 3)


def peak_memory(run):
    """Bytes allocated at once during a call, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("d_state", [1, 16])
@pytest.mark.parametrize(("dim", "size"), [(192, 56), (384, 28), (768, 14), (1536, 7)])
def test_index_maps_beat_copies(dim, size, d_state, backward, one_thread):
    batch = 1
    grid = (batch, size, size)
    parameters = [-torch.rand(4, dim, d_state) - 0.5, torch.randn(4, dim), torch.randn(4, dim)]
    sizes = [(*grid, dim), (*grid, 4, dim), (*grid, 4, d_state), (*grid, 4, d_state)]
    x, delta, B, C = (torch.randn(s) for s in sizes)
    channel_last = [x, delta, parameters[0], B, C, *parameters[1:]]
    delta, B, C = (values.flatten(1, 2).permute(0, 2, 3, 1).contiguous() for values in (delta, B, C))
    channel_first = [x.permute(0, 3, 1, 2).contiguous(), delta, parameters[0], B, C, *parameters[1:]]
    ways = {
        "index maps": (with_index_maps, channel_last),
        "as published": (with_copies_as_published, channel_first),
        "channel-last": (with_copies_channel_last, channel_last),
    }

    def run(way):
        function, inputs = ways[way]
        if not backward:
            with torch.no_grad():
                return function(*inputs)
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        out = function(*inputs)
        return torch.autograd.grad(out, inputs, torch.ones_like(out))

    seconds = dict.fromkeys(ways, float("inf"))
    for repeat in range(REPEATS + 1):  # the first compiles
        for way in ways:
            start = time.process_time()
            run(way)
            if repeat > 0:
                seconds[way] = min(seconds[way], time.process_time() - start)
    memory = {way: peak_memory(lambda way=way: run(way)) for way in ways}
    for way in ways:
        ratios = f"{seconds[way] / seconds['index maps']:.2f}, {memory[way] / memory['index maps']:.2f}"
        sizes = f"{seconds[way] * 1e3:8.2f} ms {memory[way] / 2**20:7.1f} MiB"
        print(f"dim {dim} size {size} d_state {d_state} backward {backward} {way:>12}: {sizes} ratios {ratios}")
    assert seconds["as published"] >= 1.5 * seconds["index maps"]
    assert memory["as published"] >= 2 * memory["index maps"]

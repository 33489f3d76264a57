"""A plot of time and memory against length. Needs matplotlib."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mambarium.kernels.benchmark.peers import OURS
from mambarium.kernels.benchmark.table import Row

PANELS = (("forward", "median_ms"), ("forward+backward", "median_ms"), ("forward+backward", "peak_memory_mb"))
TITLES = ("forward, ms", "forward + backward, ms", "forward + backward, peak memory, MB")


def plot_rows(rows: list[Row], path: Path) -> None:
    """Draw one line of panels per operation, dtype and number of states that was measured at several lengths.

    Args:
        rows: of one machine.
        path: the PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    series: dict[tuple[str, int, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        series[row.operation, row.batch, row.d_state, row.dtype].append(row)
    series = {key: found for key, found in series.items() if len({row.length for row in found}) > 1}
    if not series:
        raise ValueError("rows: expected an operation at several lengths")
    names = list(dict.fromkeys(row.implementation for row in rows))
    figure = Figure(figsize=(13, 3.3 * len(series)), layout="constrained")
    axes = figure.subplots(len(series), len(PANELS), squeeze=False)
    for line, ((operation, batch, d_state, dtype), found) in zip(axes, series.items(), strict=True):
        states = f", d_state {d_state}" if d_state else ""
        line[0].set_ylabel(f"{operation}\n{dtype}{states}\nbatch {batch}, dim {found[0].dim}")
        for panel, title, (direction, value) in zip(line, TITLES, PANELS, strict=True):
            chosen = [row for row in found if row.direction == direction]
            for index, name in enumerate(names):
                width = 2.5 if name == OURS else 1.2
                points = _points((row for row in chosen if row.implementation == name), value)
                if points:
                    panel.plot(*zip(*points, strict=True), "o-", label=name, color=f"C{index}", lw=width, ms=3)
            if value == "median_ms":
                limits = _points((row for row in chosen if row.implementation == OURS), "limit_ms")
                panel.plot(*zip(*limits, strict=True), "k--", label="machine limit", lw=1)
            panel.set(xscale="log", yscale="log", title=title, xlabel="length")
            panel.grid(True, which="both", alpha=0.2)
    handles: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    first = rows[0]
    threads = f", {first.threads} thread{'s' if first.threads > 1 else ''}" if first.device == "cpu" else ""
    figure.suptitle(f"{first.machine}{threads}, torch {first.torch}, {first.date}")
    figure.savefig(path, dpi=110)


def _points(rows: Iterable[Row], value: str) -> list[tuple[int, float]]:
    """Length and value, where there is one above zero."""
    found = [(row.length, getattr(row, value)) for row in rows]
    return [(length, number) for length, number in found if number]

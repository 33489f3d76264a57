"""The comparison's table: mean and sample standard deviation over seeds, for the terminal and as Markdown."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mambarium.platform.compare.cell_records import Outcome
from mambarium.platform.compare.results_table import CellResult, listed_versions

_ARROWS = {"max": "↑", "min": "↓"}


@dataclass(frozen=True)
class Summary:
    """One task with one backbone, over the seeds that are finished."""

    task: str
    backbone: str
    seeds: int
    """Number of seeds that the comparison asks for."""
    outcomes: tuple[Outcome, ...]
    """What the finished ones measured, all by the same primary metric."""

    @property
    def values(self) -> list[float]:
        """The primary metric, one value per finished seed."""
        return [outcome.metrics[outcome.primary_metric] for outcome in self.outcomes]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return sum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (divided by n - 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))


def summarize(results: Iterable[CellResult]) -> list[Summary]:
    """Put the seeds of each task and backbone together, in the order of the comparison.

    Seeds whose primary metrics differ (the task changed its mind between two runs) are never put together:
    each metric gets a row.
    """
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.cell.task, result.cell.backbone), []).append(result)
    summaries = []
    for (task, backbone), members in groups.items():
        by_metric: dict[tuple[str, str], list[Outcome]] = {}
        for member in members:
            outcome = member.record.outcome
            if outcome is not None:
                by_metric.setdefault((outcome.primary_metric, outcome.direction), []).append(outcome)
        for outcomes in by_metric.values() or [[]]:
            summaries.append(Summary(task, backbone, len(members), tuple(outcomes)))
    return summaries


def terminal_table(name: str, results: Sequence[CellResult]) -> Table:
    """Return the table for a rich console."""
    table = Table(title=f"comparison {escape(name)}", title_justify="left", caption_justify="left")
    for header, _, right in _COLUMNS:
        table.add_column(header, justify="right" if right else "left", no_wrap=right)
    previous = ""
    for summary in summarize(results):
        if previous and summary.task != previous:
            table.add_section()
        previous = summary.task
        table.add_row(*(escape(cell(summary)) for _, cell, _ in _COLUMNS))
    return table


def markdown_report(name: str, source: str, results: Sequence[CellResult]) -> str:
    """Return the report as a Markdown text; its source is the comparison's YAML file."""
    lines = [f"# Comparison {name}", ""]
    lines.append(_markdown_row(header for header, _, _ in _COLUMNS))
    lines.append(_markdown_row("---:" if right else "---" for _, _, right in _COLUMNS))
    lines += [_markdown_row(cell(summary) for _, cell, _ in _COLUMNS) for summary in summarize(results)]
    lines += ["", *_notes(source, results)]
    unfinished = [line.replace("|", "\\|") for line in unfinished_lines(results)]
    if unfinished:
        lines += ["", "Not finished, and not in the figures:", "", *(f"- {line}" for line in unfinished)]
    return "\n".join(lines) + "\n"


def unfinished_lines(results: Iterable[CellResult]) -> list[str]:
    """Return a line for each cell that isn't finished: its name, its status and why."""
    return [
        f"{result.cell.name}: {result.record.status}" + (f" ({result.record.message})" if result.record.message else "")
        for result in results
        if result.record.status != "finished"
    ]


def _notes(source: str, results: Sequence[CellResult]) -> list[str]:
    finished = [(result.record, result.record.outcome) for result in results if result.record.outcome is not None]
    notes = [
        "Mean ± sample standard deviation (n - 1) of the test metric over n seeds; one seed has no "
        "deviation. ↑ more is better, ↓ less is better. Training time is the mean over seeds, interruptions "
        "left out.",
        "",
        f"- Cells: `{source}`; every value: `results.csv`",
    ]
    for label, values in (
        (
            "Tested checkpoint",
            {Path(outcome.checkpoint).name for _, outcome in finished if outcome is not None},
        ),
        ("Host", {record.host for record, _ in finished}),
        ("Versions", {listed_versions(outcome, ", ") for _, outcome in finished if outcome is not None}),
        ("Finished", {record.date[:10] for record, _ in finished}),
    ):
        if values:
            notes.append(f"- {label}: {' / '.join(sorted(values))}")
    return notes


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _metric(summary: Summary) -> str:
    if not summary.outcomes:
        return "-"
    return f"{summary.outcomes[0].primary_metric} {_ARROWS[summary.outcomes[0].direction]}"


def _mean_and_std(summary: Summary) -> str:
    if not summary.outcomes:
        return "-"
    deviation = sample_std(summary.values)
    return _number(mean(summary.values)) + ("" if deviation is None else f" ± {_number(deviation)}")


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"


def _parameters(summary: Summary) -> str:
    # More than one figure would mean that the code changed between two seeds, which must be seen.
    counts = sorted({outcome.parameters for outcome in summary.outcomes})
    return " / ".join(f"{count:,}" for count in counts) or "-"


def _train_time(summary: Summary) -> str:
    if not summary.outcomes:
        return "-"
    return f"{mean([outcome.train_seconds for outcome in summary.outcomes]):,.1f} s"


# Header, text of a summary, whether it is right-aligned.
_COLUMNS: tuple[tuple[str, Callable[[Summary], str], bool], ...] = (
    ("Task", lambda summary: summary.task, False),
    ("Backbone", lambda summary: summary.backbone, False),
    ("Metric", _metric, False),
    ("Mean ± std", _mean_and_std, True),
    ("n", lambda summary: f"{len(summary.outcomes)} of {summary.seeds}", True),
    ("Parameters", _parameters, True),
    ("Training time", _train_time, True),
)

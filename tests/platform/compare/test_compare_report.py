"""The table's figures, and what is shown where there are none."""

import io
import math
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from mambarium.platform.compare.cell_records import CellRecord, Outcome, Status
from mambarium.platform.compare.matrix import Cell
from mambarium.platform.compare.report import markdown_report, mean, sample_std, summarize, terminal_table
from mambarium.platform.compare.results_table import CellResult


def finished(
    task: str,
    backbone: str,
    seed: int,
    value: float,
    metric: str = "accuracy",
    direction: Literal["max", "min"] = "max",
    parameters: int = 1234567,
    seconds: float = 60.0,
) -> CellResult:
    outcome = Outcome(
        {metric: value, "loss": 9.0},
        metric,
        direction,
        f"{backbone}{seed}/last.ckpt",
        parameters,
        seconds,
        1.0,
        {"torch": "2.11"},
    )
    record = CellRecord({}, "finished", "", "here", "2026-01-02T03:04:05+00:00", outcome)
    return CellResult(Cell(task, backbone, seed, Path("t.yaml"), Path("b.yaml")), record)


def unfinished(task: str, backbone: str, seed: int, status: Status, message: str = "") -> CellResult:
    cell = Cell(task, backbone, seed, Path("t.yaml"), Path("b.yaml"))
    return CellResult(cell, CellRecord({}, status, message))


def rows(results: list[CellResult]) -> list[list[str]]:
    lines = markdown_report("mine", "mine.yaml", results).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")][2:]


def test_mean_and_sample_standard_deviation() -> None:
    values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]
    assert mean(values) == 5.0
    assert sample_std(values) == pytest.approx(math.sqrt(32 / 7), rel=1e-15)
    assert sample_std([3.0]) is None


def test_a_row_holds_mean_deviation_count_parameters_and_time() -> None:
    results = [
        finished("digits", "vim", 0, 0.98, seconds=1000.0),
        finished("digits", "vim", 1, 0.99, seconds=2000.0),
        finished("language", "mamba", 0, 1.5, "bits_per_byte", "min"),
    ]
    assert rows(results) == [
        ["digits", "vim", "accuracy ↑", "0.9850 ± 0.0071", "2 of 2", "1,234,567", "1,500.0 s"],
        ["language", "mamba", "bits_per_byte ↓", "1.5000", "1 of 1", "1,234,567", "60.0 s"],
    ]


def test_seeds_that_are_not_finished_are_named_and_not_counted() -> None:
    results = [
        finished("digits", "vim", 0, 0.5),
        unfinished("digits", "vim", 1, "failed", "fit: a | b"),
        unfinished("digits", "mamba", 0, "stale", "config.rate: 1 -> 2"),
        unfinished("digits", "mamba", 1, "pending"),
    ]
    assert rows(results) == [
        ["digits", "vim", "accuracy ↑", "0.5000", "1 of 2", "1,234,567", "60.0 s"],
        ["digits", "mamba", "-", "-", "0 of 2", "-", "-"],
    ]
    report = markdown_report("mine", "mine.yaml", results)
    assert "- digits-vim-seed1: failed (fit: a \\| b)\n" in report
    assert "- digits-mamba-seed0: stale (config.rate: 1 -> 2)\n- digits-mamba-seed1: pending\n" in report


def test_different_primary_metrics_are_never_averaged() -> None:
    summaries = summarize([finished("a", "b", 0, 0.5), finished("a", "b", 1, 2.0, "perplexity", "min")])
    assert [summary.values for summary in summaries] == [[0.5], [2.0]]


def test_parameter_counts_that_differ_between_seeds_are_both_shown() -> None:
    results = [finished("a", "b", 0, 0.5, parameters=10), finished("a", "b", 1, 0.5, parameters=12)]
    assert rows(results)[0][5] == "10 / 12"


def test_numbers_that_are_large_or_no_numbers() -> None:
    values = [row[3] for row in rows([finished("a", "b", 0, 123456.789), finished("a", "c", 0, math.nan)])]
    assert values == ["123457", "nan"]


def test_markdown_tells_where_the_figures_come_from() -> None:
    report = markdown_report("mine", "configs/mine.yaml", [finished("a", "b", 0, 0.5)])
    assert report.startswith("# Comparison mine\n")
    assert "sample standard deviation (n - 1)" in report
    for line in (
        "- Cells: `configs/mine.yaml`",
        "- Host: here",
        "- Tested checkpoint: last.ckpt",
        "- Versions: torch 2.11",
        "- Finished: 2026-01-02",
    ):
        assert line in report
    assert "Not finished" not in report


def test_terminal_table_shows_the_same_figures() -> None:
    printed = io.StringIO()
    results = [
        finished("digits", "vim", 0, 0.98),
        finished("digits", "vim", 1, 0.99),
        finished("a[b]", "c", 0, 1.0),
    ]
    Console(file=printed, width=160).print(terminal_table("mine", results))
    for text in ("0.9850 ± 0.0071", "2 of 2", "a[b]"):
        assert text in printed.getvalue()

"""Running a comparison with a stand-in for `fit` and `test`: skip, fail, stop, kill, change."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from stopped_runs import wait_until

from mambarium.errors import InputError
from mambarium.platform.compare.command import Comparison, compare
from mambarium.platform.compare.matrix import read_matrix

pytestmark = pytest.mark.thorough

WriteMatrix = Callable[..., Path]


class Workplace:
    """A comparison in a temporary folder, run in this process or in another one."""

    def __init__(self, tmp_path: Path, program: list[str]) -> None:
        self.runs = tmp_path / "runs"
        self.folder = self.runs / "compare" / "mine"
        self.program = program
        self.output = ""

    def comparison(self, matrix: Path, terminal: bool = False) -> tuple[Comparison, io.StringIO]:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=200)
        return Comparison(read_matrix(matrix), matrix, self.runs, self.program, console), output

    def run(self, matrix: Path, retry_failed: bool = False, only: str | None = None, terminal: bool = False) -> int:
        comparison, output = self.comparison(matrix, terminal)
        try:
            return comparison.run(only, retry_failed)
        finally:
            self.output = output.getvalue()

    def start(self, matrix: Path) -> "subprocess.Popen[str]":
        code = (
            "import sys; from pathlib import Path; from rich.console import Console\n"
            "from mambarium.platform.compare.command import Comparison\n"
            "from mambarium.platform.compare.matrix import read_matrix\n"
            "matrix = Path(sys.argv[1])\n"
            "runs, program = Path(sys.argv[2]), sys.argv[3:]\n"
            "sys.exit(Comparison(read_matrix(matrix), matrix, runs, program, Console()).run(None, False))\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, str(matrix), str(self.runs), *self.program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def values(self) -> dict[str, str]:
        return {f"{row['backbone']}{row['seed']}": row["value"] for row in self.rows() if row["primary"] == "1"}

    def statuses(self) -> dict[str, str]:
        return {f"{row['backbone']}{row['seed']}": row["status"] for row in self.rows()}

    def trace(self, cell: str) -> list[str]:
        """The steps that a cell's runs have done, and by which process."""
        path = self.folder / cell / "trace"
        return path.read_text().splitlines() if path.exists() else []

    def steps(self, cell: str) -> list[int]:
        done = [line.split()[1] for line in self.trace(cell)]
        return [int(step) for step in done if step != "saved"]


@pytest.fixture
def workplace(tmp_path: Path, program: list[str]) -> Workplace:
    return Workplace(tmp_path, program)


def test_every_cell_gets_its_rows_and_a_second_run_skips_all(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    matrix = write_matrix(seeds=(0, 1))
    assert workplace.run(matrix) == 0
    assert workplace.values() == {"narrow0": "0.005", "narrow1": "0.006", "wide0": "0.007", "wide1": "0.008"}
    row = workplace.rows()[0]
    assert row["date"] and row["host"] and row["definition"]
    row = {key: row[key] for key in row if key not in ("date", "host", "definition")}
    assert row == {
        "task": "digits",
        "backbone": "narrow",
        "seed": "0",
        "metric": "accuracy",
        "value": "0.005",
        "direction": "max",
        "primary": "1",
        "parameters": "2000",
        "train_seconds": "0.3",
        "test_seconds": "0.5",
        "checkpoint": str(workplace.folder / "digits-narrow-seed0/checkpoints/last.ckpt"),
        "status": "finished",
        "message": "",
        "versions": "python 3.11; torch 2.11",
    }
    assert [row["metric"] for row in workplace.rows()] == ["accuracy", "loss"] * 4
    results = (workplace.folder / "results.csv").read_bytes()

    assert workplace.run(matrix) == 0
    assert workplace.output.count("finished already, skipped") == 4
    assert workplace.steps("digits-narrow-seed0") == [0, 1, 2]
    assert (workplace.folder / "results.csv").read_bytes() == results


def test_overrides_reach_the_cells(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix(overrides={"data.steps": 5})) == 0
    assert workplace.steps("digits-wide-seed0") == [0, 1, 2, 3, 4]


def test_failed_cells_are_shown_and_the_others_go_on(
    workplace: Workplace, write_matrix: WriteMatrix, tmp_path: Path
) -> None:
    matrix = write_matrix(needs=str(tmp_path / "images"))
    (tmp_path / "other.yaml").write_text(json.dumps({"steps": 2, "step_seconds": 0.0}))
    matrix.write_text(matrix.read_text() + "  other: {config: other.yaml, backbones: {wide: wide.yaml}}\n")

    assert workplace.run(matrix) == 1
    assert [(row["task"], row["status"]) for row in workplace.rows()] == [
        ("digits", "failed"),
        ("digits", "failed"),
        ("other", "finished"),
        ("other", "finished"),
    ]
    message = f"fit: error: no folder of images {tmp_path / 'images'}"
    assert workplace.rows()[0]["message"] == message
    assert f"digits-narrow-seed0: failed ({message})" in (workplace.folder / "table.md").read_text()
    assert message in workplace.output

    (tmp_path / "images").mkdir()
    assert workplace.run(matrix) == 1
    assert "--retry_failed runs it again" in workplace.output
    assert workplace.steps("digits-narrow-seed0") == []
    assert workplace.run(matrix, retry_failed=True) == 0
    assert set(workplace.statuses().values()) == {"finished"}


def test_a_killed_command_is_a_failure_that_says_so(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix(dies=True), only="*-narrow-*") == 1
    assert workplace.rows()[0]["message"] == "fit: ended by SIGKILL (out of memory?)"


def test_a_test_without_the_primary_metric_is_a_failure(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix(primary="mean_iou"), only="*-narrow-*") == 1
    assert "no value for the primary metric 'mean_iou'" in workplace.rows()[0]["message"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_passed_on_once_and_the_same_command_goes_on(
    workplace: Workplace, write_matrix: WriteMatrix, name: str
) -> None:
    number = signal.Signals[name]
    matrix = write_matrix(steps=500, step_seconds=0.05, saving_seconds=0.7)
    process = workplace.start(matrix)
    wait_until(lambda: len(workplace.steps("digits-narrow-seed0")) >= 3)
    process.send_signal(number)
    if number != signal.SIGINT:  # as schedulers do; the stand-in dies of a second one, as `fit` does
        for again in (number, signal.SIGTERM, signal.SIGINT):
            time.sleep(0.1)
            process.send_signal(again)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert f"{number.name}: waiting for fit to write its checkpoint" in output
    assert "the same command goes on" in output
    assert workplace.statuses() == {"narrow0": "interrupted", "wide0": "pending"}
    assert workplace.trace("digits-narrow-seed0")[-1].endswith("saved")
    assert len(workplace.steps("digits-narrow-seed0")) < 500

    (workplace.folder / "hurry").touch()
    assert workplace.run(matrix) == 0
    assert workplace.steps("digits-narrow-seed0") == list(range(500))
    assert workplace.values() == {"narrow0": "0.502", "wide0": "0.504"}


def test_a_second_ctrl_c_is_passed_on(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    process = workplace.start(write_matrix(steps=500, step_seconds=0.05, saving_seconds=30))
    wait_until(lambda: len(workplace.steps("digits-narrow-seed0")) >= 3)
    began = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 20
    assert workplace.statuses() == {"narrow0": "interrupted", "wide0": "pending"}
    assert not workplace.trace("digits-narrow-seed0")[-1].endswith("saved")


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns of its parent's end on Linux only")
def test_after_kill_9_no_two_commands_work_in_one_folder(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    matrix = write_matrix(steps=500, step_seconds=0.05, saving_seconds=2.0)
    process = workplace.start(matrix)
    wait_until(lambda: len(workplace.steps("digits-narrow-seed0")) >= 3)
    process.kill()  # and left unreaped: a zombie still has its number

    (workplace.folder / "hurry").touch()
    assert workplace.run(matrix) == 0
    assert "waiting for the command of a killed comparison" in workplace.output
    assert "goes on" in workplace.output
    processes = [line.split()[0] for line in workplace.trace("digits-narrow-seed0")]
    changes = [pair for pair in pairwise(processes) if pair[0] != pair[1]]
    assert len(changes) == 1, "the orphan and its successor wrote in turn"
    assert processes.count(processes[0]) < 500, "the orphan went on to its end"
    assert workplace.steps("digits-narrow-seed0") == list(range(500))
    assert workplace.values() == {"narrow0": "0.502", "wide0": "0.504"}
    process.communicate()


def test_a_second_comparison_is_refused_while_one_runs(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    matrix = write_matrix(steps=1000, step_seconds=0.05)
    process = workplace.start(matrix)
    wait_until(lambda: bool(workplace.steps("digits-narrow-seed0")))
    with pytest.raises(InputError, match=f"another comparison works there \\(process {process.pid} on"):
        workplace.run(matrix)
    comparison, output = workplace.comparison(matrix)
    assert comparison.report(None) == 1
    assert "digits-narrow-seed0: running" in output.getvalue()
    process.terminate()
    process.communicate(timeout=60)


def test_stale_cells_are_refused_and_never_mixed_in(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix(), only="*-narrow-*") == 0
    changed = write_matrix(steps=4)
    with pytest.raises(InputError) as caught:
        workplace.run(changed)
    message = str(caught.value)
    assert message.startswith(
        "stale, since trained with another definition (config.steps: 3 -> 4): digits-narrow-seed0;"
    )
    assert "\n" not in message
    assert workplace.statuses() == {"narrow0": "stale", "wide0": "pending"}
    assert workplace.values() == {}
    assert workplace.run(changed, only="*-wide-*") == 0
    assert workplace.statuses() == {"narrow0": "stale", "wide0": "finished"}

    shutil.rmtree(workplace.folder / "digits-narrow-seed0")
    assert workplace.run(changed) == 0
    assert workplace.values() == {"narrow0": "0.006", "wide0": "0.008"}


def test_a_change_undone_brings_the_result_back(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix()) == 0
    with pytest.raises(InputError):
        workplace.run(write_matrix(overrides={"data.steps": 9}))
    assert workplace.run(write_matrix()) == 0
    assert workplace.values() == {"narrow0": "0.005", "wide0": "0.007"}
    assert workplace.steps("digits-narrow-seed0") == [0, 1, 2]


def test_options_that_change_no_result_make_no_cell_stale(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    data = {"class_path": "Digits", "init_args": {"image_size": 8}}
    assert workplace.run(write_matrix(data=data)) == 0
    data["init_args"] = {"num_workers": 2, "image_size": 8}
    changed = {"trainer.enable_progress_bar": False, "data.num_workers": 1}
    assert workplace.run(write_matrix(data=data, overrides=changed)) == 0
    assert workplace.output.count("finished already, skipped") == 2

    data["init_args"] = {"num_workers": 2, "image_size": 16}
    with pytest.raises(InputError, match=r"\(config\.data\.init_args\.image_size: 8 -> 16\)"):
        workplace.run(write_matrix(data=data))


def test_a_cell_that_failed_before_its_first_checkpoint_runs_again_once_mended(
    workplace: Workplace, write_matrix: WriteMatrix, tmp_path: Path
) -> None:
    assert workplace.run(write_matrix(needs=str(tmp_path / "missing"))) == 1
    assert workplace.run(write_matrix()) == 0


def test_a_folder_removed_by_hand_is_run_again(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix()) == 0
    (workplace.folder / "digits-wide-seed0" / "test.json").unlink()
    shutil.rmtree(workplace.folder / "digits-narrow-seed0")
    assert workplace.run(write_matrix()) == 0
    assert workplace.values() == {"narrow0": "0.005", "wide0": "0.007"}


def test_a_later_test_by_hand_changes_nothing(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix()) == 0
    (workplace.folder / "digits-wide-seed0" / "test.json").write_text('{"metrics": {"accuracy": 1.0}}')
    assert workplace.run(write_matrix()) == 0
    assert workplace.values() == {"narrow0": "0.005", "wide0": "0.007"}


def test_the_log_holds_commands_and_output(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix()) == 0
    lines = (workplace.folder / "digits-wide-seed0.log").read_text().splitlines()
    assert lines[0].startswith("$ ") and " fit --config " in lines[0]
    assert lines[1] == "training from step 0"
    assert " test --config " in lines[2]


def test_progress_names_the_cells(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix()) == 0
    lines = workplace.output.splitlines()
    assert lines[1] == "cell 1 of 2: digits, narrow, seed 0: starts"
    assert re.fullmatch(r"cell 1 of 2: digits, narrow, seed 0: finished, accuracy 0\.0050 \(\d+:\d\d\)", lines[2])


def test_in_a_terminal_one_line_lives(workplace: Workplace, write_matrix: WriteMatrix) -> None:
    assert workplace.run(write_matrix(step_seconds=0.3), only="*-narrow-*", terminal=True) == 0
    assert re.search(r"cell 1 of 1: digits, narrow, seed 0 fit \d+:\d\d", workplace.output)
    assert "starts" not in workplace.output


def test_report_only_and_dry_run_run_nothing(
    workplace: Workplace, write_matrix: WriteMatrix, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = write_matrix()
    assert compare(matrix, workplace.runs, dry_run=True, only="*-wide-*") == 0
    printed = capsys.readouterr().out
    assert "digits-wide-seed0: pending" in printed and "-m mambarium fit --config" in printed
    assert "narrow" not in printed
    assert not workplace.runs.exists()
    with pytest.raises(InputError, match="nothing has run there"):
        compare(matrix, workplace.runs, report_only=True)
    with pytest.raises(InputError, match="exclude each other"):
        compare(matrix, workplace.runs, report_only=True, dry_run=True)

    assert workplace.run(matrix, only="*-wide-*") == 0
    (workplace.folder / "results.csv").unlink()
    (workplace.folder / "table.md").unlink()
    assert compare(matrix, workplace.runs, report_only=True, only="*-wide-*") == 0
    assert workplace.values() == {"wide0": "0.007"}
    assert "digits-narrow-seed0: pending" in (workplace.folder / "table.md").read_text()
    assert compare(matrix, workplace.runs, report_only=True) == 1


def test_importing_the_command_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, mambarium.platform.compare.command\n"
        "sys.exit(' '.join(name for name in ('torch', 'lightning') if name in sys.modules) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0

"""Runs of which something is missing or damaged: they go on to the same end, or refuse and change nothing."""

import json
import os
import pty
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import Killed, bytes_read

from mambarium.platform.cli import main
from mambarium.platform.runs.run_folder import RunFolder
from mambarium.tasks.task import Task

pytestmark = pytest.mark.thorough

Run = Callable[..., int]
Differences = Callable[[Path, Path], list[str]]

FIT = ("fit", "--config", "digits.yaml", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1")
SIX_STEPS = ("--data.passes", "null", "--trainer.max_steps", "6")


def fit(tiny: Run, name: str, *options: object) -> int:
    return tiny(*FIT, *SIX_STEPS, "--name", name, *options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_digits: str) -> Path:
    """A whole run, `straight`, and one that was killed in its sixth step, `killed`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "digits.yaml").write_text(tiny_digits)
    plain = Task.training_step

    def training_step(self: Task, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 5:
            raise Killed
        return plain(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*FIT, *SIX_STEPS, "--name", "straight"]) == 0
        patch.setattr(Task, "training_step", training_step)
        patch.setattr(RunFolder, "end", lambda *arguments, **values: None)
        with pytest.raises(Killed):
            main([*FIT, *SIX_STEPS, "--name", "killed"])
    assert json.loads((folder / "runs/killed/run.json").read_text())["status"] == "running"
    return folder / "runs"


@pytest.fixture
def runs(tiny: Run, tmp_path: Path, trained: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_last_record_and_configuration(run: Path) -> None:
    for name in ("checkpoints/last.ckpt", "run.json", "config.yaml"):
        (run / name).unlink()


def with_best_alone(run: Path) -> None:
    (run / "checkpoints/last.ckpt").unlink()
    (run / "checkpoints/last.ckpt").mkdir()
    (run / "checkpoints/previous.ckpt").unlink()
    (run / "config.yaml").write_text("[1]")


def with_a_cut_checkpoint(run: Path) -> None:
    last = run / "checkpoints/last.ckpt"
    content = last.read_bytes()
    last.unlink()  # best.ckpt may be the same file
    last.write_bytes(content[:-9])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_last_record_and_configuration, "last.ckpt is gone: the run goes on from previous.ckpt, step 4"),
        (with_best_alone, "last.ckpt is no file: it is kept as last.damaged.ckpt, the run goes on from best.ckpt"),
        (with_a_cut_checkpoint, "checksum is cut off): it is kept as last.damaged.ckpt, the run goes on from previous"),
    ],
)
def test_a_run_goes_on_from_the_best_that_is_left(
    tiny: Run, runs: Path, differences: Differences, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    change(runs / "killed")
    damaged = runs / "killed/checkpoints/last.ckpt"
    kept = damaged.read_bytes() if damaged.is_file() else None
    assert fit(tiny, "killed", "--resume", "never") == 2
    capsys.readouterr()
    assert fit(tiny, "killed", "--resume", "must") == 0
    assert said in capsys.readouterr().out
    assert differences(runs / "straight", runs / "killed") == []
    assert RunFolder(runs / "killed").record()["status"] == "finished"
    if kept is not None:
        assert (runs / "killed/checkpoints/last.damaged.ckpt").read_bytes() == kept


def break_all_checkpoints(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()
        path.write_bytes(b"PK")


def lose_checkpoints_of_a_resumed_run(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted", "checkpoint_step": 4}))
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "run.json").write_text('{"status": "run'), "run.json is not the record"),
        (lambda run: (run / "metrics.csv").unlink(), "metrics.csv holds 0 of the"),
        (lambda run: shutil.rmtree(run / "tensorboard"), "tensorboard holds 0 of the"),
        (break_all_checkpoints, "holds no checkpoint to go on from (last.ckpt is damaged"),
        (lose_checkpoints_of_a_resumed_run, "was trained to step 4, but"),
    ],
)
def test_what_is_missing_for_an_exact_end_is_refused(
    tiny: Run, runs: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
) -> None:
    change(runs / "killed")
    before = contents(runs / "killed")
    capsys.readouterr()
    assert fit(tiny, "killed") == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert contents(runs / "killed") == before


def test_a_start_from_a_checkpoint_goes_on_or_is_refused(
    tiny: Run, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = runs / "killed/checkpoints/last.ckpt"
    assert fit(tiny, "further", "--ckpt_path", last) == 0
    assert f"going on from {last}, step 4" in capsys.readouterr().out
    one, other = (
        torch.load(runs / run / "checkpoints/last.ckpt", weights_only=True) for run in ("straight", "further")
    )
    assert all(torch.equal(one["state_dict"][name], value) for name, value in other["state_dict"].items())

    unfit = {"finished": runs / "straight/checkpoints/last.ckpt"}
    for name, lacking in (("callbacks", {"callbacks": {}}), ("optimiser", {"optimizer_states": []})):
        unfit[name] = tmp_path / f"no-{name}.ckpt"
        torch.save({**torch.load(last, weights_only=True), **lacking}, unfit[name])
    for said, path in zip(
        ("is the end of a finished run (step 6)", "lacks the state of Position", "lacks the optimiser's state"),
        unfit.values(),
        strict=True,
    ):
        assert fit(tiny, "nothing", "--ckpt_path", path) == 2
        error = capsys.readouterr().err
        assert said in error and f"--model.pretrained {path}" in error and error.count("\n") == 1
        assert not (runs / "nothing").exists()


def test_a_kill_between_the_last_checkpoint_and_the_record(
    tiny: Run, runs: Path, differences: Differences, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: RunFolder, *arguments: object, **values: object) -> None:
        self.unlock()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "end", die)
        fit(tiny, "killed")
    assert "metrics" not in RunFolder(runs / "killed").record()
    assert fit(tiny, "killed") == 0
    assert RunFolder(runs / "killed").record()["metrics"]
    assert differences(runs / "straight", runs / "killed") == []


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_going_on_reads_the_checkpoint_once_and_stopping_reads_nothing(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Task.training_step

    def training_step(self: Task, batch: Any, batch_idx: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", training_step)
    wide = ("--model.backbone.width", 384)
    fit(tiny, "warm-up", *wide)
    stopping = bytes_read(lambda: fit(tiny, "wide", *wide))
    size = (tmp_path / "runs/wide/checkpoints/last.ckpt").stat().st_size
    assert size > 10_000_000
    going_on = bytes_read(lambda: fit(tiny, "wide", *wide))
    assert stopping < 0.2 * size
    assert going_on - stopping == pytest.approx(size, rel=0.05)


@pytest.mark.slow
def test_a_closed_terminal_stops_a_run_in_good_order(tiny: Run, tmp_path: Path) -> None:
    """The progress bar then writes to a terminal that is gone."""
    options = (*FIT, "--data.passes", "1000", "--trainer.enable_progress_bar", "true", "--name", "closed")
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-m", "mambarium", *options])
    metrics = tmp_path / "runs/closed/metrics.csv"
    deadline = time.monotonic() + 300
    os.set_blocking(terminal, False)
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.05)
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            continue
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    record = RunFolder(tmp_path / "runs/closed").record()
    assert record["status"] == "interrupted" and record["checkpoint_step"] == record["step"] > 0

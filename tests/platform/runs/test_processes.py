"""Real processes: killed, signalled as a group, and several training together."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mambarium

pytestmark = pytest.mark.thorough

SERVER = Path(__file__).with_name("forked_runs.py")
PROGRAM = Path(__file__).with_name("toy_run.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(mambarium.__file__).parents[1])}


@pytest.fixture(scope="module")
def run():
    """Runs the toy run in its own process or processes; returns their exit codes."""
    with subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as server:

        def order(
            folder: Path, world_size: int = 1, kill: tuple[float | str, int] | None = None, **options
        ) -> list[int]:
            message = {"folder": str(folder), "options": options, "world_size": world_size, "kill": kill}
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield order
        server.stdin.close()


def timed(run: Callable, folder: Path, **options) -> float:
    """The seconds that a run takes on this machine, once everything is imported."""
    assert run(folder.with_name("warm-up"), **options) == [0]
    started = time.monotonic()
    assert run(folder, **options) == [0]
    return time.monotonic() - started


def kill_until_done(run: Callable, folder: Path, chance: random.Random, kills: int, seconds: float, **options) -> int:
    """Kills processes of a run of so many seconds at random moments, lets the last finish; returns how many died."""
    killed = 0
    for _ in range(kills):
        (code,) = run(folder, kill=(chance.uniform(0.05, 0.7) * seconds, signal.SIGKILL), **options)
        if code == 0:
            return killed
        assert code == -signal.SIGKILL
        killed += 1
    assert run(folder, **options) == [0]
    return killed


def test_killed_at_random_moments(run, tmp_path, differences):
    options = {"every_steps": 1, "seconds_per_batch": 0.03, "val_check_interval": 2}
    seconds = timed(run, tmp_path / "straight", **options)
    assert run(tmp_path / "chain", kill=("metrics", signal.SIGKILL), **options) == [-signal.SIGKILL]
    kill_until_done(run, tmp_path / "chain", random.Random(0), kills=5, seconds=seconds, **options)
    assert differences(tmp_path / "straight", tmp_path / "chain") == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, 140, marks=pytest.mark.slow),
    ],
)
def test_whole_group_is_signalled_with_workers(run, tmp_path, differences, number, code):
    """A terminal's Ctrl-C and a scheduler's SIGTERM reach the loader's workers too; no batch may be lost."""
    options = {"num_workers": 2, "seconds_per_batch": 0.2, "every_steps": 1000}
    assert run(tmp_path / "straight", num_workers=0) == [0]
    for _ in range(2):
        assert run(tmp_path / "chain", kill=("metrics", number), **options) == [code]
        assert (tmp_path / "chain" / "checkpoints" / "last.ckpt").exists()
    assert run(tmp_path / "chain", **options) == [0]
    assert differences(tmp_path / "straight", tmp_path / "chain") == []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def accuracies(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row["val/accuracy"] for row in csv.DictReader(file) if row["val/accuracy"]]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one(run, tmp_path, accumulate):
    """Same global batches, each validation sample once: 13 samples, of which one process gets the odd one."""
    options = {"dropout": 0.0, "validation_noise": 0.0, "accumulate": accumulate}
    assert run(tmp_path / "one", world_size=1, **options) == [0]
    assert run(tmp_path / "two", world_size=2, **options) == [0, 0]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
    assert accuracies(tmp_path / "one") == accuracies(tmp_path / "two") != []


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_stop_together_and_go_on(run, tmp_path, differences, accumulate):
    """The signal reaches one process only, each time another one."""
    options = {"accumulate": accumulate, "val_check_interval": 2, "batch_norm": True}
    assert run(tmp_path / "straight", world_size=2, **options) == [0, 0]
    for hook, call, number, rank, code in [
        ("on_train_batch_end", 3, signal.SIGTERM, 0, 143),
        ("on_validation_batch_start", 2, signal.SIGINT, 1, 130),
        ("on_train_batch_start", 2, signal.SIGTERM, 1, 143),
    ]:
        codes = run(tmp_path / "chain", world_size=2, signal=[hook, call, number, rank], **options)
        assert codes == [code, 0]
    assert run(tmp_path / "chain", world_size=2, **options) == [0, 0]
    assert differences(tmp_path / "straight", tmp_path / "chain") == []


@pytest.mark.slow
def test_processes_launched_by_lightning(tmp_path):
    """Its observer kills the run if a launched process ends with anything but 0."""
    options = {"devices": 2, "signal": ["on_train_batch_end", 3, signal.SIGTERM, 0]}
    command = [sys.executable, PROGRAM, tmp_path, json.dumps(options)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert ended.returncode == 143, ended.stderr
    assert "stopped after step 3" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variant", [{}, {"accumulate": 2}, {"num_workers": 2}], ids=str)
def test_killed_many_times(run, tmp_path, differences, variant):
    options = {"every_steps": 1, "seconds_per_batch": 0.02, "val_check_interval": 2, **variant}
    seconds = timed(run, tmp_path / "straight", **options)
    killed = 0
    for number in range(10):
        killed += kill_until_done(
            run, tmp_path / str(number), random.Random(number), kills=8, seconds=seconds, **options
        )
        assert differences(tmp_path / "straight", tmp_path / str(number)) == [], number
    assert killed > 10

"""Two processes see the batches of one, and evaluate each sample once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from stopped_runs import wait_until

import mambarium

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("task", ["digits", pytest.param("text", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tiny: Callable[..., int], tmp_path: Path, task: str) -> None:
    config = yaml.safe_load((tmp_path / f"{task}.yaml").read_text())
    config["model"]["init_args"]["backbone"]["init_args"].pop("dropout", None)
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    config["trainer"]["max_steps"] = 3
    config["data"]["init_args"]["passes"] = None
    if task == "text":
        config["data"]["init_args"]["eval_length"] = 1021  # 46 windows, the last one short
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert tiny("fit", "--config", "run.yaml", "--name", "one") == 0

    options = ["--config", "run.yaml", "--name", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "PYTHONPATH": str(Path(mambarium.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "mambarium", "fit", *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert "2 x cpu" in finished.stdout

    one, two = (json.loads((tmp_path / "runs" / name / "run.json").read_text()) for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    weights = [
        torch.load(tmp_path / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-4, atol=1e-6)


def start_two(tmp_path: Path, *options: str, **variables: str) -> "subprocess.Popen[str]":
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.passes", "null"]
    return subprocess.Popen(
        [sys.executable, "-m", "mambarium", "fit", "--config", "digits.yaml", *two, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mambarium.__file__).parents[1]), "OMP_NUM_THREADS": "1", **variables},
    )


def child_of(process: "subprocess.Popen[str]") -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(child) for child in children if "mambarium" in Path(f"/proc/{child}/cmdline").read_text())


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_the_run_goes_on(
    tiny: Callable[..., int], tmp_path: Path, rank: int
) -> None:
    length = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "5", "--trainer.limit_val_batches", "1"]
    process = start_two(tmp_path, *length)
    folder = tmp_path / "runs" / "digits"
    wait_until((folder / "checkpoints" / "last.ckpt").exists, 240)
    child = child_of(process)
    killed, left = ((process.pid, child), (child, process.pid))[rank]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not is_alive(left), 60)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == (2 if rank else -signal.SIGKILL)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    words = "was ended by SIGKILL" if rank else "has ended"
    assert len(errors) == 1 and f"rank {rank} (process {killed}) {words}" in errors[0] and "again" in errors[0], printed
    assert "Traceback" not in printed
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"

    process = start_two(tmp_path, *length)
    wait_until(lambda: len(json.loads((folder / "run.json").read_text())["parts"]) == 2, 240)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert "going on from" in printed


@pytest.mark.slow
def test_an_error_of_one_process_is_said_once(tiny: Callable[..., int], tmp_path: Path) -> None:
    """A callback that fails in one process only, and only in training."""
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from lightning.pytorch import Callback\n"
        "from mambarium.errors import InputError\n"
        "class Failing(Callback):\n"
        "    def on_train_batch_start(self, *arguments):\n"
        "        if os.environ.get('LOCAL_RANK', '0') == os.environ['FAILING']:\n"
        "            raise InputError('a.png: truncated')\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(mambarium.__file__).parents[1])])
    for rank in ("0", "1"):
        options = ["--name", f"failing{rank}", "--trainer.max_steps", "5", "--trainer.callbacks", "mine.Failing"]
        process = start_two(tmp_path, *options, FAILING=rank, PYTHONPATH=path)
        _, printed = process.communicate(timeout=240)
        assert process.returncode == 2, printed
        assert [line for line in printed.splitlines() if line.startswith("error: ")] == ["error: a.png: truncated"]
        assert "Traceback" not in printed
        assert json.loads((tmp_path / "runs" / f"failing{rank}" / "run.json").read_text())["status"] == "failed"

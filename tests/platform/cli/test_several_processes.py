"""Two processes see the batches of one, and evaluate each sample once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import mambarium


@pytest.mark.parametrize("task", ["digits", "text"])
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

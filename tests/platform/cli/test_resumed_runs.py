"""Both tasks, stopped three times at random steps by a signal, end bit for bit as if they had not been."""

import csv
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mambarium.tasks.task import Task

Run = Callable[..., int]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process SIGTERM from inside a training step."""
    plain = Task.training_step

    def training_step(self: Task, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", training_step)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", ["digits", "text"])
def test_three_stops_change_nothing(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, workers: int
) -> None:
    config = yaml.safe_load((tmp_path / f"{task}.yaml").read_text())
    config["trainer"] |= {"max_steps": 12, "val_check_interval": 4, "log_every_n_steps": 1}
    config["data"]["init_args"] |= {"passes": None, "num_workers": workers}
    if task == "digits":
        affine = {"degrees": [-10, 10], "translate": [0.1, 0.1]}
        config["model"]["init_args"] |= {"mixup": 0.5, "cutmix": 0.5}
        config["data"]["init_args"]["train_transforms"] = [
            {"class_path": "torchvision.transforms.v2.RandomAffine", "init_args": affine}
        ]
    else:
        config["model"]["init_args"]["backbone"]["init_args"]["dropout"] = 0.1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))

    assert tiny("fit", "--config", "run.yaml", "--name", "straight") == 0
    for step in sorted(random.Random(f"{task} {workers}").sample(range(12), 3)):
        with monkeypatch.context() as patch:
            stop_at(step, patch)
            assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 143
    assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 0

    straight, stopped = (tmp_path / "runs" / name for name in ("straight", "stopped"))
    for file in ("last.ckpt", "best.ckpt"):
        one, other = (torch.load(run / "checkpoints" / file, weights_only=True) for run in (straight, stopped))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            assert equal(one[part], other[part]), f"{file}: {part}"
    assert rows(straight) == rows(stopped)

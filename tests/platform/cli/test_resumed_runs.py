"""Runs of every task, stopped or killed at random steps, end bit for bit as if they had not been."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from stopped_runs import Killed, logged_rows

from mambarium.tasks.task import Task

pytestmark = pytest.mark.thorough

Run = Callable[..., int]


BACKBONE = "{class_path: MambaOut, init_args: {depths: [1, 1], widths: [8, 12], kernel_size: 3, drop_path: 0.2}}"
DETECTION = f"""
model:
  class_path: ObjectDetection
  init_args:
    backbone: {BACKBONE}
    detector:
      class_path: MaskRCNN
      init_args:
        strides: [4, 8]
        channels: 16
        proposals: {{anchor_sizes: [12, 24], candidates: [20, 20], kept: [10, 5], samples_per_image: 16}}
        boxes: {{width: 16, samples_per_image: 8, pooled_size: 3, score_threshold: 0.0, detections_per_image: 5}}
        masks: {{pooled_size: 4, num_convs: 1, channels: 8}}
data:
  class_path: DigitSceneDetection
  init_args:
    batch_size: 4
    num_scenes: 12
    image_size: 32
    num_workers: 2
    train_transforms:
    - {{class_path: mambarium.platform.data.Mosaic, init_args: {{size: 32}}}}
    - {{class_path: mambarium.platform.data.CopyPaste}}
"""
SEGMENTATION = f"""
model:
  class_path: SemanticSegmentation
  init_args:
    backbone: {BACKBONE}
    head: {{class_path: UperNetHead, init_args: {{channels: 8}}}}
data:
  class_path: DigitSceneSegmentation
  init_args:
    batch_size: 4
    num_scenes: 12
    image_size: 32
    train_transforms:
    - {{class_path: mambarium.platform.data.WindowCrop, init_args: {{height: 24, width: 24}}}}
"""


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def end_at(step: int, end: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends this process from inside a training step."""
    plain = Task.training_step

    def training_step(self: Task, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            end()
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", training_step)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(
    ("task", "workers"),
    [
        ("digits", 2),
        ("text", 0),
        pytest.param("digits", 0, marks=pytest.mark.slow),
        pytest.param("text", 2, marks=pytest.mark.slow),
    ],
)
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
            end_at(step, terminate, patch)
            assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 143
    assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 0

    check_equal(tmp_path)


@pytest.mark.parametrize(
    "config",
    [pytest.param(DETECTION, id="detection", marks=pytest.mark.slow), pytest.param(SEGMENTATION, id="segmentation")],
)
def test_a_kill_and_a_stop_change_nothing_in_dense_tasks(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    no_pictures = "{class_path: mambarium.platform.callbacks.PredictionPictures, init_args: {images: 0}}"
    trainer = (
        "{accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 1, max_steps: 4, val_check_interval: 2, "
        f"limit_val_batches: 1, callbacks: [{no_pictures}]}}"
    )
    (tmp_path / "run.yaml").write_text(f"{config}trainer: {trainer}\n")
    assert tiny("fit", "--config", "run.yaml", "--name", "straight") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        end_at(3, kill, patch)
        tiny("fit", "--config", "run.yaml", "--name", "stopped")
    with monkeypatch.context() as patch:
        end_at(2, terminate, patch)
        assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 143
    assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 0
    check_equal(tmp_path)


def check_equal(folder: Path) -> None:
    """The straight run and the stopped one are the same but for time."""
    straight, stopped = (folder / "runs" / name for name in ("straight", "stopped"))
    for file in ("last.ckpt", "best.ckpt"):
        one, other = (torch.load(run / "checkpoints" / file, weights_only=True) for run in (straight, stopped))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            assert equal(one[part], other[part]), f"{file}: {part}"
    assert logged_rows(straight) == logged_rows(stopped)

"""Detection and segmentation on one backbone: interrupted runs, and two processes, end as one straight run does."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from stopped_runs import logged_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mambarium
from mambarium.tasks import MultiTask

pytestmark = pytest.mark.thorough

CONFIG = """
model:
  class_path: MultiTask
  init_args:
    backbone: {class_path: MambaOut, init_args: {depths: [1, 1, 1], widths: [8, 12, 16], kernel_size: 3}}
    objectives:
      boxes:
        class_path: DetectionObjective
        init_args:
          detector: {class_path: FCOS, init_args: {strides: [4, 8, 16], channels: 32, num_convs: 1}}
      pixels: {class_path: SegmentationObjective}
    weighting: uncertainty
    gradient_norms_every: 2
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001}}
data:
  class_path: MultiTaskData
  init_args:
    turns: proportional
    tasks:
      boxes: {class_path: DigitSceneDetection, init_args: {batch_size: 16, image_size: 32, num_scenes: 96}}
      pixels: {class_path: DigitSceneSegmentation, init_args: {batch_size: 32, image_size: 32, num_scenes: 96}}
trainer:
  accelerator: cpu
  max_steps: 8
  val_check_interval: 8
  log_every_n_steps: 1
  enable_progress_bar: false
"""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_stops_change_nothing_and_logs_show_every_task(
    tiny: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert tiny("fit", "--config", "run.yaml", "--name", "straight") == 0
    plain = MultiTask.training_step
    for step in (3, 6):

        def stopped(self: MultiTask, batch: Any, batch_idx: int, step: int = step) -> torch.Tensor:
            if self.global_step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(MultiTask, "training_step", stopped)
            assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 143
    assert tiny("fit", "--config", "run.yaml", "--name", "stopped") == 0
    straight, run = (tmp_path / "runs" / name for name in ("straight", "stopped"))
    one, other = weights(straight), weights(run)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged_rows(straight) == logged_rows(run)

    events = EventAccumulator(str(straight / "tensorboard"))
    events.Reload()
    assert {"boxes/detection/0", "pixels/segmentation/3"} <= set(events.Tags()["images"])

    last = logged_rows(straight)[-2]
    for name in ("boxes", "pixels"):
        assert float(last[f"train/{name}/gradient_norm"]) > 0
        assert 0.9 < float(last[f"train/{name}/weight"]) < 1.1
        assert float(last[f"train/{name}/loss"]) > 0


@pytest.mark.slow
def test_two_processes_train_as_one(tiny: Callable[..., int], tmp_path: Path) -> None:
    """Tasks whose losses are plain means, with momentum and decay that must not move a head without its turn."""
    config = yaml.safe_load(CONFIG)
    arguments, tasks = config["model"]["init_args"], config["data"]["init_args"]["tasks"]
    sgd = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    arguments["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": sgd}
    arguments["objectives"]["whole"] = {"class_path": "ClassificationObjective"}
    tasks["whole"] = {"class_path": "Digits", "init_args": {"batch_size": 32}}
    del arguments["objectives"]["boxes"], tasks["boxes"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert tiny("fit", "--config", "run.yaml", "--name", "one") == 0

    options = ["--config", "run.yaml", "--name", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "PYTHONPATH": str(Path(mambarium.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", "mambarium", "fit", *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr

    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-3, atol=1e-5)
    metrics = [json.loads((run / "run.json").read_text())["metrics"] for run in (one, two)]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-2, abs=1e-3)
    assert {"val/mean", "val/pixels/mIoU", "val/whole/accuracy"} <= set(metrics[0])


def test_frequencies_of_lvis_come_from_the_annotations(tiny: Callable[..., int], tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG)
    config["trainer"] |= {"max_steps": 1, "val_check_interval": 1}
    names = {f"{part}_{what}": "" for part in ("train", "val") for what in ("images", "annotations")}
    options = {"path": ".", "batch_size": 2, "short_side": 32} | names
    options |= {"train_annotations": "lvis.json", "val_annotations": "lvis.json"}
    config["data"]["init_args"]["tasks"]["boxes"] = {"class_path": "CocoDetection", "init_args": options}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    images: list[dict[str, Any]] = []
    for number in (1, 2):
        Image.new("RGB", (32, 32), (90 * number, 0, 0)).save(tmp_path / f"{number}.png")
        sizes = {"id": number, "file_name": f"{number}.png", "width": 32, "height": 32}
        images.append(sizes | {"neg_category_ids": [3], "not_exhaustive_category_ids": []})
    box = {"image_id": 1, "bbox": [4, 4, 12, 12], "area": 144}
    content = {
        "images": images,
        "annotations": [box | {"id": 1, "category_id": 3}, box | {"id": 2, "category_id": 8, "image_id": 2}],
        "categories": [{"id": 3, "name": "a", "frequency": "r"}, {"id": 8, "name": "b", "frequency": "f"}],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    assert tiny("fit", "--config", "run.yaml") == 0
    metrics = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())["metrics"]
    assert {"val/boxes/APr", "val/boxes/APf", "val/pixels/mIoU"} <= set(metrics)


def test_predict_writes_a_folder_per_task(
    tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(CONFIG)
    config["model"]["init_args"]["objectives"]["whole"] = {"class_path": "ClassificationObjective"}
    detector = config["model"]["init_args"]["objectives"]["boxes"]["init_args"]["detector"]["init_args"]
    detector |= {"score_threshold": 0.0, "detections_per_image": 3}
    config["data"]["init_args"]["tasks"]["whole"] = {"class_path": "Digits", "init_args": {"batch_size": 32}}
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 0, "val_check_interval": 1}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert tiny("fit", "--config", "run.yaml") == 0

    sizes = {"0": (40, 30), "1": (24, 50)}
    (tmp_path / "images" / "more").mkdir(parents=True)
    for name, size in sizes.items():
        Image.new("RGB", size, (80 * int(name),) * 3).save(tmp_path / "images" / "more" / f"{name}.png")
    assert tiny("predict", "--config", "run.yaml") == 2
    assert "give --images FOLDER" in capsys.readouterr().err

    # An image that can't be read, in the second batch: the same command works once it is mended.
    run, broken = tmp_path / "runs" / "run", tmp_path / "images" / "more" / "1.png"
    whole, before = broken.read_bytes(), sorted(run.iterdir())
    broken.write_bytes(whole[:40])
    config["data"]["init_args"]["tasks"]["boxes"]["init_args"]["batch_size"] = 1
    (tmp_path / "singly.yaml").write_text(yaml.safe_dump(config))
    assert tiny("predict", "--config", "singly.yaml", "--name", "run", "--images", tmp_path / "images") == 2
    assert "1.png" in capsys.readouterr().err
    assert sorted(run.iterdir()) == before
    broken.write_bytes(whole)

    assert tiny("predict", "--config", "run.yaml", "--images", tmp_path / "images") == 0
    predictions = run / "predictions"
    assert f" to {Path('runs', 'run', 'predictions', 'whole', 'classes.csv')}\n" in capsys.readouterr().out
    assert sorted(path.name for path in predictions.iterdir()) == ["boxes", "pixels", "whole"]
    images_of_results = json.loads((predictions / "boxes" / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images_of_results] == ["more/0.png", "more/1.png"]
    assert 0 < len(json.loads((predictions / "boxes" / "detections.json").read_text())) <= 6
    for name, size in sizes.items():
        for folder in ("boxes/overlays", "pixels/overlays", "pixels/masks"):
            assert Image.open(predictions / folder / "more" / f"{name}.png").size == size
    with (predictions / "whole" / "classes.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in found] == ["0.png", "1.png"]
    for row in found:
        assert 0.1 <= float(row["probability_1"]) <= 1
    assert tiny("predict", "--config", "run.yaml", "--images", tmp_path / "images") == 2
    assert "predictions exists" in capsys.readouterr().err

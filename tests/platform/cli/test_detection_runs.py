"""Detection from a YAML file: fit, test, and what predict writes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import mambarium

Run = Callable[..., int]

TINY_SCENES = """
model:
  class_path: ObjectDetection
  init_args:
    backbone: {class_path: MambaOut, init_args: {depths: [1, 1], widths: [8, 16]}}
    detector:
      class_path: MaskRCNN
      init_args:
        strides: [4, 8]
        channels: 32
        proposals: {anchor_sizes: [12, 24], candidates: [20, 20], kept: [10, 5], samples_per_image: 16}
        boxes: {width: 16, samples_per_image: 8, pooled_size: 3, score_threshold: 0.0, detections_per_image: 5}
        masks: {pooled_size: 4, num_convs: 1, channels: 8}
data:
  class_path: DigitSceneDetection
  init_args: {batch_size: 4, num_scenes: 8, passes: 1, image_size: 32}
trainer: {accelerator: cpu, enable_progress_bar: false, limit_val_batches: 2, limit_test_batches: 2}
"""


def test_fit_test_and_predict(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scenes.yaml").write_text(TINY_SCENES)
    assert tiny("fit", "--config", "scenes.yaml") == 0
    metrics = json.loads((tmp_path / "runs" / "scenes" / "run.json").read_text())["metrics"]
    assert {"val/AP", "val/AP50", "val/mask_AP"} <= set(metrics)
    assert any(name.startswith("val/AP_class/") for name in metrics)
    assert tiny("test", "--config", "scenes.yaml") == 0
    result = json.loads((tmp_path / "runs" / "scenes" / "test.json").read_text())
    assert result["primary_metric"] == {"name": "AP", "direction": "max"}

    folder = tmp_path / "images" / "more"
    folder.mkdir(parents=True)
    for index, size in enumerate(((40, 30), (24, 50))):
        Image.new("RGB", size, (index * 80,) * 3).save(folder / f"{index}.png")
    assert tiny("predict", "--config", "scenes.yaml", "--images", tmp_path / "images") == 0
    predictions = tmp_path / "runs" / "scenes" / "predictions"
    content = json.loads((predictions / "detections.json").read_text())
    assert [(image["file_name"], image["width"], image["height"]) for image in content["images"]] == [
        ("more/0.png", 40, 30),
        ("more/1.png", 24, 50),
    ]
    assert content["categories"][7] == {"id": 7, "name": "7"}
    assert 0 < len(content["annotations"]) <= 10
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        assert min(left, top, width, height) >= 0
        assert annotation["segmentation"]["size"] == sizes[annotation["image_id"]]
        assert 0 <= annotation["score"] <= 1
    for index, size in enumerate(((40, 30), (24, 50))):
        assert Image.open(predictions / "overlays" / "more" / f"{index}.png").size == size
    assert tiny("predict", "--config", "scenes.yaml", "--images", tmp_path / "images") == 2
    assert "predictions exists" in capsys.readouterr().err


def test_two_processes_measure_as_one(tiny: Run, tmp_path: Path) -> None:
    # Many unsure detections, so that a model that has learnt nothing finds something.
    text = TINY_SCENES.replace("detections_per_image: 5", "detections_per_image: 100").replace("[20, 20]", "[20, 50]")
    text = text.replace("kept: [10, 5]", "kept: [10, 100]").replace("limit_val_batches: 2", "limit_val_batches: 8")
    (tmp_path / "scenes.yaml").write_text(text)
    options = ["--config", "scenes.yaml", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    finished = subprocess.run(
        [sys.executable, "-m", "mambarium", "fit", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mambarium.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    run = tmp_path / "runs" / "scenes"
    together = json.loads((run / "run.json").read_text())["metrics"]
    # The batches of one process here are the shares of a process there, so that detections are equal to the last bit.
    options = ["--data.batch_size", "2", "--trainer.limit_val_batches", "16"]
    assert tiny("validate", "--config", "scenes.yaml", *options) == 0
    alone = json.loads((run / "validate.json").read_text())["metrics"]
    assert alone["AP50"] > 0 and "mask_AP" in alone
    for name, value in alone.items():
        assert together[f"val/{name}"] == pytest.approx(value, abs=1e-6), name


def test_a_detector_that_does_not_fit_is_refused_in_one_line(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scenes.yaml").write_text(TINY_SCENES.replace("strides: [4, 8]", "strides: [4, 8, 16]"))
    assert tiny("fit", "--config", "scenes.yaml") == 2
    error = capsys.readouterr().err
    assert "2 anchor sizes for 3 strides" in error and "Traceback" not in error

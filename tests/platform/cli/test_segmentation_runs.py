"""Segmentation through the command line: train, look at pictures, test, predict a folder of images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mambarium.tasks.drawing import class_color

pytestmark = pytest.mark.thorough

CONFIG = """
model:
  class_path: SemanticSegmentation
  init_args:
    backbone: {class_path: MambaOut, init_args: {depths: [1, 1], widths: [8, 16], kernel_size: 3}}
    head: {class_path: UperNetHead, init_args: {channels: 16}}
    auxiliary_weight: 0.4
    loss: {class_path: SegmentationLoss, init_args: {dice_weight: 1.0}}
    inference: {window: 24, stride: 16, flip: true}
data:
  class_path: DigitSceneSegmentation
  init_args: {batch_size: 32, image_size: 32, num_scenes: 64}
trainer: {accelerator: cpu, max_steps: 2, val_check_interval: 2, enable_progress_bar: false}
"""


def test_train_test_and_predict(tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert tiny("fit", "--config", "run.yaml") == 0
    run = tmp_path / "runs" / "run"
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    assert {"val/mIoU", "val/mean_accuracy", "val/pixel_accuracy", "val/IoU/background", "val/IoU/9"} <= set(metrics)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == [f"segmentation/{index}" for index in range(4)]
    (picture,) = events.Images("segmentation/0")
    assert picture.step == 2 and picture.width > 2 * picture.height * 0.8

    images = tmp_path / "images"
    (images / "street").mkdir(parents=True)
    colors = np.random.default_rng(0).integers(0, 256, (2, 45, 37, 3), dtype=np.uint8)
    Image.fromarray(colors[0]).save(images / "one.png")
    Image.fromarray(colors[1][:20]).save(images / "street" / "two.jpg")
    assert tiny("predict", "--config", "run.yaml", "--images", images) == 0
    written = run / "predictions"
    for name, size in (("one.png", (37, 45)), ("street/two.png", (37, 20))):
        mask = Image.open(written / "masks" / name)
        assert mask.mode == "P" and mask.size == size and np.asarray(mask).max() < 11
        assert Image.open(written / "overlays" / name).size == size
        numbers = np.asarray(mask)
        tint = np.array([class_color(number) if number > 0 else (0, 0, 0) for number in range(11)])
        assert np.array_equal(np.asarray(mask.convert("RGB")), tint[numbers])  # 0 is the background
        if name == "one.png":
            opacity = np.where(numbers == 0, 0, 0.5)[..., None]
            painted = colors[0] * (1 - opacity) + tint[numbers] * opacity
            assert np.abs(np.asarray(Image.open(written / "overlays" / name)) - painted).max() <= 1

    # An image that can't be read, in the second batch: the same command works once it is mended.
    whole = (images / "street" / "two.jpg").read_bytes()
    (images / "street" / "two.jpg").write_bytes(whole[:100])
    before = sorted(tmp_path.iterdir())
    again = ("predict", "--config", "run.yaml", "--data.batch_size", 1, "--images", images, "--output", "again")
    capsys.readouterr()
    assert tiny(*again) == 2
    assert "two.jpg" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    (images / "street" / "two.jpg").write_bytes(whole)
    assert tiny(*again) == 0
    assert capsys.readouterr().out.endswith("wrote masks and overlays of 2 images to again\n")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "again"])
    assert (tmp_path / "again").stat().st_mode == (tmp_path / "images").stat().st_mode
    assert len(list((tmp_path / "again").rglob("*.png"))) == 4

    assert tiny("predict", "--config", "run.yaml", "--images", images) == 2
    assert "predictions exists; give another place with --output" in capsys.readouterr().err
    Image.fromarray(colors[0]).save(images / "one.jpg")
    assert tiny("predict", "--config", "run.yaml", "--images", images, "--output", tmp_path / "more") == 2
    assert "2 images would be written to one.png" in capsys.readouterr().err

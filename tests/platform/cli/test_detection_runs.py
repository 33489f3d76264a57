"""Detection from a YAML file: fit, test, and what predict writes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import mambarium

pytestmark = pytest.mark.thorough

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
    content = json.loads((predictions / "images.json").read_text())
    assert [(image["id"], image["file_name"], image["width"], image["height"]) for image in content["images"]] == [
        (1, "more/0.png", 40, 30),
        (2, "more/1.png", 24, 50),
    ]
    assert content["categories"][7] == {"id": 7, "name": "7"}
    results = json.loads((predictions / "detections.json").read_text())
    assert 0 < len(results) <= 10
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for result in results:
        left, top, width, height = result["bbox"]
        assert min(left, top, width, height) >= 0
        assert result["segmentation"]["size"] == sizes[result["image_id"]]
        assert 0 <= result["score"] <= 1
    for index, size in enumerate(((40, 30), (24, 50))):
        assert Image.open(predictions / "overlays" / "more" / f"{index}.png").size == size
    assert tiny("predict", "--config", "scenes.yaml", "--images", tmp_path / "images") == 2
    assert "predictions exists" in capsys.readouterr().err


COCO_DATA = """
data:
  class_path: CocoDetection
  init_args:
    path: set
    train_images: train
    train_annotations: train.json
    val_images: val
    val_annotations: val.json
    masks: true
    short_side: 32
    batch_size: 4
    passes: 1
trainer: {accelerator: cpu, enable_progress_bar: false}
"""


def save_coco(folder: Path) -> None:
    """Two parts of images with eight objects each, the last of three categories without any."""
    generator = np.random.default_rng(0)
    for part, first in (("train", 1000), ("val", 2000)):
        (folder / part / "street").mkdir(parents=True)
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in ((7, "crane"), (3, "crane"), (90, "boat"))],
        }
        for index in range(4):
            name = f"street/{9 - index}.png"
            Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(folder / part / name)
            content["images"].append({"id": first + index, "file_name": name, "width": 40, "height": 32})
            for number in range(8):
                x, y = 4 * number, 2 * number
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": first + index,
                        "category_id": (3, 7)[number % 2],
                        "bbox": [x, y, 8, 12],
                        "area": 96,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + 8, y, x + 8, y + 12, x, y + 12]],
                    }
                )
        (folder / f"{part}.json").write_text(json.dumps(content))


def test_results_of_annotated_images_are_read_and_evaluated_by_coco_s_own_code(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_coco(tmp_path / "set")
    model = TINY_SCENES[: TINY_SCENES.index("data:")].replace("detections_per_image: 5", "detections_per_image: 6")
    (tmp_path / "cranes.yaml").write_text(model + COCO_DATA)
    assert tiny("fit", "--config", "cranes.yaml") == 0
    said = capsys.readouterr().out
    assert "note     1 of 3 classes without a training object: boat\n" in said
    assert "limits   at most 6 detections per image; average precision counts 100 of each class\n" in said
    assert "note     an image holds 8 objects; raise detections_per_image of the detector to that or more\n" in said
    assert "(mean over 2 classes; those that do not occur have no figure)\n" in said
    metrics = json.loads((tmp_path / "runs" / "cranes" / "run.json").read_text())["metrics"]
    assert metrics["val/AP_class/boat"] is None and metrics["val/AP_classes"] == 2
    assert {"val/AP_class/crane (class 0)", "val/AP_class/crane (class 1)"} <= set(metrics)

    assert tiny("predict", "--config", "cranes.yaml", "--images", tmp_path / "set" / "val" / "street") == 0
    predictions = tmp_path / "runs" / "cranes" / "predictions"
    annotations = Path("set", "val.json")
    assert capsys.readouterr().out.endswith(
        f"wrote detections.json (with the image ids of {annotations}) and overlays of 4 images to "
        f"{Path('runs', 'cranes', 'predictions')}\n"
    )
    truth = COCO(str(annotations))
    found = truth.loadRes(str(predictions / "detections.json"))
    assert {result["image_id"] for result in found.anns.values()} == set(range(2000, 2004))
    assert {result["category_id"] for result in found.anns.values()} <= {3, 7, 90}
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert 0 <= evaluation.stats[0] <= 1
    listed = json.loads((predictions / "images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in listed] == [(2003 - i, f"{6 + i}.png") for i in range(4)]

    Image.new("RGB", (40, 32)).save(tmp_path / "set" / "val" / "unlisted.png")
    assert tiny("predict", "--config", "cranes.yaml", "--images", "set/val", "--output", "more") == 0
    assert capsys.readouterr().out.endswith("(with the image ids of images.json) and overlays of 5 images to more\n")
    assert {result["image_id"] for result in json.loads(Path("more", "detections.json").read_text())} <= set(
        range(1, 6)
    )


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

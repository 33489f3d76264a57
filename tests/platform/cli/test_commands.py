"""fit, test and predict from a YAML file, and what the same command does the second time."""

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.thorough

Run = Callable[..., int]


def test_fit_test_and_predict_on_images(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("fit", "--config", "digits.yaml") == 0
    run = tmp_path / "runs" / "digits"
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished" and record["step"] == 6
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["Digits"]
    assert kept["class_names"] == list("0123456789") and kept["image_size"] == 8
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (run / name).is_file(), name
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == [f"classification/{index}" for index in range(4)]
    printed = capsys.readouterr().out
    assert "classes  10 (training/validation): 0 142/36, " in printed
    assert "RBF-SVM accuracy" in printed and "tensorboard --logdir runs/digits/tensorboard" in printed

    before = (run / "run.json").read_text()
    assert tiny("fit", "--config", "digits.yaml") == 0
    assert "finished already" in capsys.readouterr().out
    assert (run / "run.json").read_text() == before

    assert tiny("test", "--config", "digits.yaml") == 0
    result = json.loads((run / "test.json").read_text())
    assert result["metrics"]["accuracy"] == pytest.approx(record["metrics"]["val/accuracy"])
    assert result["primary_metric"] == {"name": "accuracy", "direction": "max"}

    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8), (index * 80,) * 3).save(images / f"{index}.png")
    assert tiny("predict", "--config", "digits.yaml", "--images", images) == 0
    rows = list(csv.DictReader((run / "predictions.csv").open()))
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert all(row["class"] == row["class_1"] for row in rows)
    assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"])
    assert tiny("predict", "--config", "digits.yaml", "--images", images) == 2
    assert "predictions.csv exists" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_of_any_bytes_are_predicted_on(tiny: Run, tmp_path: Path) -> None:
    assert tiny("fit", "--config", "digits.yaml") == 0
    images = tmp_path / "images"
    images.mkdir()
    for name in (b"a.png", b"bad\xff.png", b"c.png"):
        Image.new("L", (8, 8)).save(Path(os.fsdecode(bytes(images) + b"/" + name)))
    assert tiny("predict", "--config", "digits.yaml", "--images", images, "--output", "table.csv") == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
    assert [Path(row["path"]).name for row in rows] == ["a.png", "bad\\udcff.png", "c.png"]


def test_fit_and_predict_on_text(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("fit", "--config", "text.yaml") == 0
    printed = capsys.readouterr().out
    for figure in ("val/bits_per_byte", "unigram", "lzma"):
        assert figure in printed
    arguments = ("predict", "--config", "text.yaml", "--prompt", "The with", "--max_new_tokens", 20)
    assert tiny(*arguments) == 0
    first = capsys.readouterr().out
    assert first.startswith("The with") and len(first.encode()) >= 20
    assert tiny(*arguments) == 0
    assert capsys.readouterr().out == first


def test_checkpoints_load_with_weights_only_and_in_plain_python(tiny: Run, tmp_path: Path) -> None:
    from mambarium.tasks import ImageClassification

    assert tiny("fit", "--config", "digits.yaml") == 0
    path = tmp_path / "runs" / "digits" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    model = ImageClassification.load_from_checkpoint(path)
    assert model.backbone.width == 8
    for key, value in model.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][key])


def test_the_saved_configuration_names_the_same_run(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny("fit", "--config", "digits.yaml", "--name", "mine") == 0
    capsys.readouterr()
    assert tiny("fit", "--config", "runs/mine/config.yaml") == 0
    assert "finished already" in capsys.readouterr().out


def test_the_printed_configuration_can_be_read_again(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tiny("fit", "--config", "digits.yaml", "--print_config")
    assert stop.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert tiny("fit", "--config", "printed.yaml", "--name", "printed") == 0


def test_a_backbone_given_later_replaces_the_earlier_one_whole(tiny: Run, tmp_path: Path) -> None:
    (tmp_path / "backbone.yaml").write_text("class_path: MambaOut\ninit_args: {depths: [1], widths: [8]}\n")
    assert tiny("fit", "--config", "digits.yaml", "--model.backbone", "backbone.yaml", "--name", "other") == 0
    config = yaml.safe_load((tmp_path / "runs" / "other" / "config.yaml").read_text())
    backbone = config["model"]["init_args"]["backbone"]
    assert backbone["class_path"].endswith("MambaOut")
    assert "dropout" not in backbone["init_args"] and backbone["init_args"]["drop_path"] == 0.0


def test_a_finished_run_with_another_configuration_is_refused(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny("fit", "--config", "digits.yaml") == 0
    before = (tmp_path / "runs" / "digits" / "checkpoints" / "last.ckpt").read_bytes()
    capsys.readouterr()
    assert tiny("fit", "--config", "digits.yaml", "--data.passes", "0.5") == 2
    error = capsys.readouterr().err
    assert "data.init_args.passes: 0.25 -> 0.5" in error and error.count("\n") == 1
    assert tiny("fit", "--config", "digits.yaml", "--resume", "never") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "runs" / "digits" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_workers_may_change_between_the_parts_of_a_run(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny("fit", "--config", "digits.yaml") == 0
    assert tiny("fit", "--config", "digits.yaml", "--data.num_workers", "1") == 0
    assert "finished already" in capsys.readouterr().out


def test_the_users_configuration_is_never_overruled_by_a_checkpoint(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny("fit", "--config", "digits.yaml") == 0
    capsys.readouterr()
    assert tiny("test", "--config", "digits.yaml", "--model.label_smoothing", "0.3") == 0
    assert "label_smoothing: 0.0 -> 0.3" in capsys.readouterr().out
    assert tiny("test", "--config", "digits.yaml", "--model.backbone.width", "16") == 2
    assert "of another model" in capsys.readouterr().err


def test_a_finished_run_says_its_figures_again(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("fit", "--config", "digits.yaml") == 0
    first = capsys.readouterr().out
    assert tiny("fit", "--config", "digits.yaml") == 0
    again = capsys.readouterr().out
    for line in first[first.index("finished") :].splitlines():
        assert line in again


def test_steps_are_the_optimiser_s_in_all_that_is_said(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4", "--data.passes", "null"]
    options += ["--trainer.val_check_interval", "2", "--trainer.enable_progress_bar", "true"]
    assert tiny("fit", "--config", "digits.yaml", *options) == 0
    said = capsys.readouterr().out
    assert "length   4 steps of 128 samples" in said
    assert re.findall(r"^step (\d+)  val/", said, re.MULTILINE) == ["2", "4"]
    assert "finished 4 steps" in said


def test_one_sample_is_the_least_of_a_batch(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ("--data.passes", "null", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "1")
    assert tiny("fit", "--config", "digits.yaml", *steps, "--data.batch_size", "1") == 0
    assert tiny("fit", "--config", "digits.yaml", *steps, "--data.batch_size", "0", "--name", "none") == 2
    assert "data.batch_size is 0; give 1 or more" in capsys.readouterr().err

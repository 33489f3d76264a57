"""One line, exit code 2, nothing left behind that blocks the next try."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

pytestmark = pytest.mark.thorough

Run = Callable[..., int]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "digts.yaml"], ["digts.yaml", "no such file"]),
        (["--config", "classification/digits_vin"], ["did you mean 'classification/digits_vim'"]),
        (
            ["--config", "digits.yaml", "--trainer.max_step", "3"],
            ["--trainer.max_step'", "did you mean '--trainer.max_steps'"],
        ),
        (["--config", "digits.yaml", "--trainer.max_epochs", "3"], ["trainer.max_epochs", "data.passes"]),
        (["--config", "digits.yaml", "--trainer.max_steps", "3"], ["given twice", "data.passes"]),
        (["--config", "digits.yaml", "--data.passes", "null"], ["length of the run is not given"]),
        (["--config", "digits.yaml", "--trainer.max_steps", "0"], ["trainer.max_steps is 0", "1 or more"]),
        (["--config", "digits.yaml", "--data.passes", "1e300"], ["longer than 1,000,000,000,000 batches"]),
        (["--config", "digits.yaml", "--data.num_workers", "1000000"], ["num_workers is 1000000", "0 to 1,024"]),
        (["--config", "digits.yaml", "--model.backbone.depth", "1000000"], ["10,000 parameter tensors", "depth"]),
        (["--config", "digits.yaml", "--model.backbone.width", "1000000000"], ["GiB of memory", "width"]),
        (["--config", "digits.yaml", "--trainer", "3"], ["trainer", "3"]),
        (["--config", "digits.yaml", "--trainer.accumulate_grad_batches", "0"], ["accumulate_grad_batches is 0"]),
        (["--config", "plain.yaml"], ["trainer: expected 'key: value' lines, found []"]),
        (["--config", "digits.yaml", "--seed_everything", "-1"], ["seed_everything is -1", "0 to 4294967295"]),
        (["--config", "digits.yaml", "--seed_everything", "4294967296"], ["seed_everything is 4294967296"]),
        (
            ["--config", "digits.yaml", "--model.backbone.widht", "3"],
            ["model.backbone: ", "'widht'", "did you mean 'width'"],
        ),
        (["--config", "digits.yaml", "--model.backbone.width", "wide"], ["width", "int", "wide"]),
        (["--config", "digits.yaml", "--model.backbone", "Vin"], ["'Vin'", "did you mean 'Vim'"]),
        (["--config", "digits.yaml", "--model.backbone", "Mamba"], ["Mamba is not a vision backbone"]),
        (["--config", "digits.yaml", "--data.batch_size", "5000"], ["batch_size", "5000"]),
        (["--config", "digits.yaml", "--model.backbone.patch_size", "3"], ["patch", "3"]),
        (["--config", "digits.yaml", "--resume", "must"], ["no run to resume"]),
        (["--config", "digits.yaml", "--resume", "maybe"], ["resume", "maybe"]),
        (["--config", "digits.yaml", "--trainer.strategy", "dpd"], ["trainer", "dpd"]),
        (["--config", "digits.yaml", "--trainer.limit_val_batches", "-3"], ["limit_val_batches", "-3"]),
        (["--config", "digits.yaml", "--runs_dir", "digits.yaml"], ["digits.yaml", "--runs_dir"]),
        (["--config", "classification/finetune_folder"], ["data.path: no value given"]),
        (["--config", "digits.yaml", "--model.pretrained", "x.pth"], ["x.pth: no such checkpoint"]),
        (["--config", "digits.yaml", "--model.layer_decay", "2"], ["layer_decay is 2.0", "at most 1"]),
        (["--config", "digits.yaml", "--model.frozen_stages", "9"], ["frozen_stages is 9", "Vim has 2"]),
        (["--config", "empty.yaml"], ["empty.yaml", "key: value"]),
        (["--config", "broken.yaml"], ["broken.yaml", "not valid YAML"]),
        (["--config", "double.yaml"], ["double.yaml, line 2", "'model' is given twice"]),
        (["--config", "digits.yaml", "--data.batch_size", "null"], ["data.batch_size: expected int, found null"]),
        (["--config", "null.yaml"], ["model.backbone.depth: expected int, found null"]),
        (["--config", "typo.yaml"], ["batchsize", "did you mean 'batch_size'"]),
    ],
)
def test_fit_explains(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    (tmp_path / "double.yaml").write_text("model: 1\nmodel: 2\n")
    text = (tmp_path / "digits.yaml").read_text()
    (tmp_path / "plain.yaml").write_text(text[: text.index("trainer:")] + "trainer: []")
    (tmp_path / "typo.yaml").write_text(text.replace("batch_size", "batchsize"))
    (tmp_path / "null.yaml").write_text(text.replace("depth: 1", "depth: null"))
    assert tiny("fit", *options) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error, error
    for word in words:
        assert word in error, error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "words"), [("fti", "did you mean 'fit'"), ("tets", "did you mean 'test'"), ("xyz", "there are: fit,")]
)
def test_an_unknown_command(tiny: Run, capsys: pytest.CaptureFixture[str], command: str, words: str) -> None:
    assert tiny(command) == 2
    assert words in capsys.readouterr().err


def test_checkpoints_that_are_missing_truncated_or_foreign(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny("test", "--config", "digits.yaml") == 2
    assert "last.ckpt: no such checkpoint; run fit first" in capsys.readouterr().err
    assert tiny("test", "--config", "digits.yaml", "--ckpt_path", "none.ckpt") == 2
    assert "none.ckpt: no such file" in capsys.readouterr().err
    assert tiny("fit", "--config", "digits.yaml") == 0
    whole = tmp_path / "runs" / "digits" / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:-2000])
    capsys.readouterr()
    assert tiny("test", "--config", "digits.yaml", "--ckpt_path", "cut.ckpt") == 2
    assert "cut.ckpt is damaged" in capsys.readouterr().err
    assert tiny("test", "--config", "text.yaml", "--ckpt_path", whole) == 2
    error = capsys.readouterr().err
    assert "of another model" in error and "Traceback" not in error

    content = torch.load(whole, weights_only=True)
    torch.save(torch.zeros(3), "tensor.ckpt")
    torch.save(content["state_dict"], "weights.ckpt")
    del content["run_config"]
    torch.save(content | {"state_dict": {"weight": torch.zeros(3)}}, "foreign.ckpt")
    for verb, name, words in (
        ("test", "tensor", "tensor.ckpt is no checkpoint: it holds a Tensor"),
        ("fit", "tensor", "tensor.ckpt is no checkpoint: it holds a Tensor"),
        ("fit", "weights", "--model.pretrained weights.ckpt"),
        ("fit", "foreign", "--model.pretrained foreign.ckpt"),
    ):
        assert tiny(verb, "--config", "digits.yaml", "--name", "next", "--ckpt_path", f"{name}.ckpt") == 2
        error = capsys.readouterr().err.strip()
        assert words in error and "\n" not in error, error
    assert not (tmp_path / "runs" / "next").exists()
    assert tiny("fit", "--config", "digits.yaml", "--name", "next", "--ckpt_path", whole) == 2
    assert "is the end of a finished run" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_left_alone(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "notes.txt").write_text("mine")
    assert tiny("fit", "--config", "digits.yaml") == 2
    assert "is not empty and no run" in capsys.readouterr().err
    assert (tmp_path / "runs" / "digits" / "notes.txt").read_text() == "mine"


def test_a_run_that_died_before_its_first_checkpoint_does_not_block(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder = tmp_path / "images"
    for label in ("a", "b"):
        for part in ("train", "test"):
            (image_folder / part / label).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (8, 8), (index * 60,) * 3).save(image_folder / part / label / f"{index}.png")
    broken = image_folder / "train" / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    config = yaml.safe_load((tmp_path / "digits.yaml").read_text())
    init_args = {"path": str(image_folder), "image_size": 8, "val_fraction": 0.0, "batch_size": 4, "passes": 1}
    config["data"] = {"class_path": "ImageFolder", "init_args": {**init_args, "cache": False}}
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(config))
    assert tiny("fit", "--config", "folder.yaml") == 2
    assert "3.png" in capsys.readouterr().err
    assert json.loads((tmp_path / "runs" / "folder" / "run.json").read_text())["status"] == "failed"
    Image.new("RGB", (8, 8)).save(broken)
    assert tiny("fit", "--config", "folder.yaml") == 0

    # The same configuration, but a third class by now.
    for part in ("train", "test"):
        shutil.copytree(image_folder / part / "a", image_folder / part / "c")
    capsys.readouterr()
    assert tiny("test", "--config", "folder.yaml") == 2
    error = capsys.readouterr().err
    assert "class_names of the data and of the checkpoint differ (data: a, b, c; checkpoint: a, b)" in error


def test_an_evaluation_before_the_first_fit_does_not_block_it(tiny: Run, tmp_path: Path) -> None:
    assert tiny("fit", "--config", "digits.yaml", "--name", "other") == 0
    checkpoint = tmp_path / "runs" / "other" / "checkpoints" / "last.ckpt"
    assert tiny("test", "--config", "digits.yaml", "--ckpt_path", checkpoint) == 0
    assert (tmp_path / "runs" / "digits" / "test-last.json").is_file()
    assert tiny("fit", "--config", "digits.yaml") == 0

"""Every shipped YAML can be read, and what it describes can be built."""

import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mambarium.backbones.contract import Backbone
from mambarium.platform.cli.composition import compose, read_mapping
from mambarium.platform.cli.shipped import configs_folder
from mambarium.platform.cli.training import TrainingCLI
from mambarium.platform.compare.matrix import read_matrix

CONFIGS = configs_folder()
EXPERIMENTS = sorted(
    path
    for part in ("classification", "detection", "language_modeling", "multitask", "segmentation")
    for path in (CONFIGS / part).glob("*.yaml")
)
BACKBONES = sorted((CONFIGS / "backbones").glob("*.yaml"))
COMPARISONS = sorted((CONFIGS / "compare").glob("*.yaml"))
DATA = sorted((CONFIGS / "data").glob("*.yaml"))


def identity(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_every_file_is_tested_here() -> None:
    assert set(CONFIGS.rglob("*.yaml")) == {*EXPERIMENTS, *BACKBONES, *COMPARISONS, *DATA}


def test_names_of_runs_differ() -> None:
    names = [path.stem for path in EXPERIMENTS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", BACKBONES, ids=identity)
def test_backbones(path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    with torch.device("meta"):
        backbone = parser.instantiate(parser.parse_object({"backbone": str(path)})).backbone
    assert isinstance(backbone, Backbone)
    assert sum(parameter.numel() for parameter in backbone.parameters()) > 0


@pytest.mark.parametrize("path", EXPERIMENTS, ids=identity)
def test_experiments(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "timm." in path.read_text():
        pytest.importorskip("timm")
    (tmp_path / "text.txt").write_text("some text " * 2000)
    for label in ("a", "b"):
        folder = tmp_path / "images" / "train" / label
        folder.mkdir(parents=True)
        from PIL import Image

        for index in range(10):
            Image.new("RGB", (40, 40)).save(folder / f"{index}.png")
    annotations = tmp_path / "annotations" / "instances_train2017.json"
    annotations.parent.mkdir()
    categories = [{"id": number, "name": name} for number, name in ((1, "cat"), (3, "dog"))]
    annotations.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    voc = tmp_path / "voc"
    for file, content in {
        "ImageSets/Main/train.txt": "cell\n",
        "Annotations/cell.xml": "<annotation><filename>cell.jpg</filename>"
        "<size><width>4</width><height>4</height></size><object><name>RBC</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object>"
        "</annotation>",
    }.items():
        (voc / file).parent.mkdir(parents=True)
        (voc / file).write_text(content)
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a")).save(str(tokenizer))
    given = {
        "TextFiles": [
            "--data.train",
            str(tmp_path / "text.txt"),
            "--data.cache_dir",
            str(tmp_path / "cache"),
        ],
        "ImageFolder": ["--data.path", str(tmp_path / "images")],
        "CocoDetection": ["--data.path", str(tmp_path)],
        "VocDetection": ["--data.path", str(voc)],
        "MaskFolder": ["--data.path", str(tmp_path / "images")],
        "HubText": ["--data.tokenizer", str(tokenizer)],
    }
    text = path.read_text()
    if part := re.search(r"^data: (\S+\.yaml)$", text, re.MULTILINE):
        text += (path.parent / part[1]).read_text()
    options = next((value for name, value in given.items() if f"class_path: {name}" in text), [])
    composition = compose(["--config", str(path), *options, "--runs_dir", str(tmp_path / "runs")])
    monkeypatch.setattr(TrainingCLI, "_run_subcommand", lambda self, subcommand: None)
    with torch.device("meta"):
        command = TrainingCLI(["fit", *composition.arguments], composition.files)
    assert command.trainer.max_epochs == 1
    assert command.model.primary_metric.name
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", COMPARISONS, ids=identity)
def test_comparisons(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = read_matrix(path).cells
    assert len({cell.seed for cell in cells}) > 1  # a mean has a deviation
    monkeypatch.setattr(TrainingCLI, "_run_subcommand", lambda self, subcommand: None)
    for cell in cells:
        if cell.seed == cells[0].seed:
            composition = compose(cell.options(tmp_path))
            with torch.device("meta"):
                command = TrainingCLI(["fit", *composition.arguments], composition.files)
            assert command.model.primary_metric.name


@pytest.mark.parametrize("path", DATA, ids=identity)
def test_data(path: Path) -> None:
    from jsonargparse import ArgumentParser
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import Transform

    from mambarium.platform.data import CopyPaste, ExactDataModule, Mosaic

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ExactDataModule, "data")
    arguments = parser.parse_object({"data": read_mapping(path)}).data.init_args
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--transforms", type=list[Transform] | None)
    image = tv_tensors.Image(torch.zeros(3, 300, 400, dtype=torch.uint8))
    for transform in (
        parser.instantiate(parser.parse_object({"transforms": arguments.train_transforms})).transforms or []
    ):
        if not isinstance(transform, CopyPaste | Mosaic):
            image = transform(image)
    assert image.shape[0] == 3

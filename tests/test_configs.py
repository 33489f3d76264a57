"""Every shipped YAML can be read, and what it describes can be built."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import mambarium.backbones
from mambarium.backbones.contract import Backbone
from mambarium.platform.cli.configuration.composition import compose, read_mapping
from mambarium.platform.cli.configuration.shipped_configs import configs_folder
from mambarium.platform.cli.training import TrainingCLI
from mambarium.platform.compare.matrix import read_matrix

pytestmark = pytest.mark.thorough

CONFIGS = configs_folder()
PARTS = ("classification", "detection", "language_modeling", "multitask", "segmentation")
EXPERIMENTS = sorted(path for part in PARTS for path in (CONFIGS / part).glob("*.yaml"))
BACKBONES = sorted((CONFIGS / "backbones").glob("*.yaml"))
CHANGED = [next(path for path in EXPERIMENTS if path.parent.name == part) for part in PARTS]
"""An experiment of each task, given an option for each part too."""
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


def option_of(backbone: str) -> list[str]:
    """An option that changes one argument of a backbone, whichever it has."""
    changes = {"drop_path": "0.3", "dropout": "0.2", "d_state": "4", "depth": "3", "num_layers": "3", "patch_size": "4"}
    arguments = inspect.signature(getattr(mambarium.backbones, backbone.rsplit(".", 1)[-1])).parameters
    name = next(name for name in changes if name in arguments)
    return [f"--model.backbone.{name}", changes[name]]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=identity)
def test_experiments(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data_options: Callable[[Path], list[str]],
) -> None:
    if "timm." in path.read_text():
        pytest.importorskip("timm")
    options = [*data_options(path), "--runs_dir", str(tmp_path / "runs")]
    changed = path in CHANGED
    if changed:
        (config,) = [yaml.safe_load(compose(["--config", str(path)]).arguments[1])]
        options += option_of(config["model"]["init_args"]["backbone"]["class_path"])
        options += ["--model.frozen_stages", "1", "--data.num_workers", "1", "--trainer.log_every_n_steps", "7"]
        options += ["--model.optimizer.lr", "0.0123"]
    composition = compose(["--config", str(path), *options])
    monkeypatch.setattr(TrainingCLI, "_run_subcommand", lambda self, subcommand: None)
    with torch.device("meta"):
        command = TrainingCLI(["fit", *composition.arguments], composition.files)
    assert command.trainer.max_epochs == 1
    assert command.model.primary_metric.name
    assert not (tmp_path / "runs").exists()
    if changed:
        assert command.datamodule.num_workers == 1 and command.trainer.log_every_n_steps == 7
        assert any(not parameter.requires_grad for parameter in command.model.backbone.parameters())
        assert command.model.optimizer_factory([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 0.0123
        name, value = option_of(type(command.model.backbone).__name__)
        written = command.run_config["model"]["init_args"]["backbone"]["init_args"]
        assert str(written[name.rsplit(".", 1)[-1]]) == value


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

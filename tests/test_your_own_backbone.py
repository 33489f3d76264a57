"""The example of docs/your-own-backbone.md keeps the contract and trains from the command line."""

import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from mambarium.backbones import SequenceOnImages, VisionBackbone
from mambarium.backbones.contract import Backbone
from mambarium.platform.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "your-own-backbone.md").read_text()


def block(language: str, containing: str) -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL) if containing in text]
    return found


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module, in a folder of the user's with its configuration."""
    (tmp_path / "my_backbone.py").write_text(block("python", "class TwoStages"))
    (tmp_path / "my_run.yaml").write_text(block("yaml", "my_backbone.TwoStages"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_backbone", raising=False)
    return importlib.import_module("my_backbone")


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    """The contract tests that every vision backbone of the package goes through."""
    path = ROOT / "tests" / "backbones" / "test_vision_contract.py"
    spec = importlib.util.spec_from_file_location("vision_contract_of_the_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_example_keeps_the_contract(example: ModuleType, contract: ModuleType) -> None:
    family = contract.Family(lambda: example.TwoStages(width=8, depth=2), [(8, 8), (7, 9), (1, 1)], None)
    contract.FAMILIES["example"] = family
    checks = 0
    for name, check in vars(contract).items():
        wanted = inspect.signature(check).parameters if name.startswith("test_") else {}
        if "backbone" not in wanted and list(wanted) != ["name"]:
            continue
        torch.manual_seed(0)
        given = {
            "backbone": family.build().eval(),
            "family": family,
            "shape": (2, 1, 16, 16),
            "name": "example",
        }
        check(**{argument: given[argument] for argument in wanted})
        checks += 1
    assert checks >= 10


def test_the_example_trains_from_the_command_line(example: ModuleType) -> None:
    assert issubclass(example.TwoStages, VisionBackbone)
    options = ["--data.passes", "0.05", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", "my_run.yaml", *options]) == 0
    run = json.loads(Path("runs/my_run/run.json").read_text())
    assert run["status"] == "finished" and run["step"] == 1
    assert Path("runs/my_run/checkpoints/last.ckpt").exists()
    config = yaml.safe_load(Path("runs/my_run/config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["class_path"] == "my_backbone.TwoStages"


def test_the_sequence_backbone_on_images_can_be_built() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    config = yaml.safe_load(block("yaml", "SequenceOnImages"))
    backbone = parser.instantiate(parser.parse_object({"backbone": config})).backbone
    assert isinstance(backbone, SequenceOnImages)
    assert len(backbone.routes) == 2

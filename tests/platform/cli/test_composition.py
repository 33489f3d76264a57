"""Files and options folded into one configuration: another class replaces, the same class is merged."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mambarium.errors import InputError
from mambarium.platform.cli.composition import compose

CONFIG = """
model:
  class_path: Task
  init_args:
    backbone: {class_path: mambarium.backbones.Mamba, init_args: {width: 5, depth: 2}}
    schedule: {class_path: WarmupCosine, init_args: {warmup: 0.1}}
data: {class_path: TextFiles, init_args: {train: corpus.yaml}}
"""


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "corpus.yaml").write_text("a: text\n")
    (tmp_path / "vim.yaml").write_text("{class_path: Vim, init_args: {depth: 7}}")
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> tuple[dict[str, Any], list[str]]:
        arguments = compose(["--config", "run.yaml", *options]).arguments
        assert arguments[0] == "--config"
        return yaml.safe_load(arguments[1]), arguments[2:]

    return run


def backbone(config: dict[str, Any]) -> dict[str, Any]:
    return config["model"]["init_args"]["backbone"]


def test_a_file_replaces_a_class_whole(composed: Any) -> None:
    config, rest = composed("--model.backbone", "vim.yaml")
    assert backbone(config) == {"class_path": "Vim", "init_args": {"depth": 7}} and rest == []


def test_another_class_replaces_and_the_same_class_keeps_its_arguments(composed: Any) -> None:
    assert backbone(composed("--model.backbone=Vim")[0]) == {"class_path": "Vim"}
    same = backbone(composed("--model.backbone", "Mamba")[0])
    assert same == {"class_path": "mambarium.backbones.Mamba", "init_args": {"width": 5, "depth": 2}}


def test_a_mapping_is_merged_into_the_same_class(composed: Any) -> None:
    config, _ = composed("--model.backbone", "{class_path: Mamba, init_args: {depth: 9}}")
    assert backbone(config)["init_args"] == {"width": 5, "depth": 9}


def test_null_and_plain_values_go_to_the_parser(composed: Any) -> None:
    config, rest = composed("--model.schedule", "null", "--model.backbone.depth", "3", "--trainer.max_steps=-1")
    assert rest == ["--model.schedule=null", "--model.backbone.depth=3", "--trainer.max_steps=-1"]
    assert backbone(config)["init_args"]["depth"] == 2


def test_options_before_the_file_count_as_well(composed: Any, tmp_path: Path) -> None:
    arguments = compose(["--model.backbone", "vim.yaml", "--config", "run.yaml"]).arguments
    assert backbone(yaml.safe_load(arguments[1])) == {"class_path": "Vim", "init_args": {"depth": 7}}


def test_a_data_file_that_is_yaml_stays_a_path(composed: Any) -> None:
    config, rest = composed("--data.train", "corpus.yaml")
    assert config["data"]["init_args"]["train"] == "corpus.yaml" and rest == ["--data.train=corpus.yaml"]


def test_a_missing_file_is_named(composed: Any) -> None:
    with pytest.raises(InputError, match=r"nix\.yaml: no such file"):
        composed("--model.backbone", "nix.yaml")

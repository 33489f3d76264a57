"""Files and options folded into one configuration: another class replaces, the same class is merged."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.composition import compose

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


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: b: c\n\t{[", "class_path\n", b"\xff\xfe\x00"])
def test_data_named_yaml_may_hold_anything(composed: Any, tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "corpus.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    config, rest = composed("--data.train", "corpus.yaml", "--data.val", "texts/*.yml")
    assert config["data"]["init_args"]["train"] == "corpus.yaml"
    assert rest == ["--data.train=corpus.yaml", "--data.val=texts/*.yml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", r"bad\.yaml: expected 'key: value' lines, found list"),
        ("a: b: c", r"bad\.yaml, line 1: not valid YAML"),
    ],
)
def test_a_file_in_a_class_s_place_must_be_a_mapping(composed: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    for option in ("--model.backbone", "--data"):
        with pytest.raises(InputError, match=words):
            composed(option, "bad.yaml")


def test_a_broken_description_of_a_class_is_named(composed: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("class_path: Vim\ninit_args: {depth: 1\n")
    for option in ("--model.backbone", "--model.head"):
        with pytest.raises(InputError, match=r"bad\.yaml, line 3: not valid YAML"):
            composed(option, "bad.yaml")


@pytest.mark.parametrize(
    "option", ["--model.backbone={class_path: Mamba", "--trainer.callbacks={a: b: c}", "--data.x={y: {{ Z }}}"]
)
def test_an_inline_value_that_is_no_yaml_is_named(composed: Any, option: str) -> None:
    with pytest.raises(InputError, match=rf"^{option.split('=')[0]}, line 1: not valid YAML: [^\n]+$"):
        composed(option)


def test_the_long_spelling_works_like_the_short_one(composed: Any) -> None:
    for value in ("vim.yaml", "{class_path: Mamba, init_args: {depth: 9}}", "Vim"):
        assert composed("--model.init_args.backbone", value) == composed("--model.backbone", value)
    long = composed("--model.init_args.backbone.init_args.norm", "{class_path: Norm}")
    assert long == composed("--model.backbone.norm", "{class_path: Norm}")
    assert backbone(long[0])["init_args"]["norm"] == {"class_path": "Norm"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model:", {"backbone": {"class_path": "Vim"}}),
        ("model: {init_args: }", {"init_args": None, "backbone": {"class_path": "Vim"}}),
        ("model: Task", {"class_path": "Task", "init_args": {"backbone": {"class_path": "Vim"}}}),
        ("model: {class_path: Task}", {"class_path": "Task", "init_args": {"backbone": {"class_path": "Vim"}}}),
        (
            "model: {class_path: Task, init_args: }",
            {"class_path": "Task", "init_args": {"backbone": {"class_path": "Vim"}}},
        ),
    ],
)
def test_an_option_below_an_empty_section_or_a_class_s_name(
    composed: Any, tmp_path: Path, text: str, expected: dict[str, Any]
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert composed("--model.backbone", "{class_path: Vim}")[0] == {"model": expected}


@pytest.mark.parametrize(
    ("text", "place"), [("model: 5", "model"), ("model: {class_path: Task, init_args: a}", r"model\.init_args")]
)
def test_an_option_below_a_plain_value_is_refused(composed: Any, tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"^{place}: expected a class or 'key: value' lines, found (5|'a')$"):
        composed("--model.backbone", "vim.yaml")


def test_options_alone_make_a_configuration(composed: Any) -> None:
    arguments = compose(["--model", "Task", "--model.backbone", "vim.yaml", "--name", "x"]).arguments
    assert yaml.safe_load(arguments[1]) == {
        "model": {
            "class_path": "Task",
            "init_args": {"backbone": {"class_path": "Vim", "init_args": {"depth": 7}}},
        }
    }
    assert arguments[2:] == ["--name=x"]


def test_a_missing_file_is_named(composed: Any) -> None:
    with pytest.raises(InputError, match=r"nix\.yaml: no such file"):
        composed("--model.backbone", "nix.yaml")


def test_a_published_name_stands_for_its_class_and_arguments(composed: Any) -> None:
    config, rest = composed("--model.backbone", "vim_tiny", "--model.backbone.drop_path", "0.3")
    assert backbone(config)["class_path"] == "mambarium.backbones.Vim"
    assert backbone(config)["init_args"] == {"image_size": 224, "patch_size": 16, "width": 192, "depth": 24}
    assert rest == ["--model.backbone.drop_path=0.3"]


@pytest.mark.parametrize(
    "given",
    [
        "{class_path: vim_small, init_args: {drop_path: 0.3}}",
        "{class_path: mambarium.backbones.from_variant, init_args: {name: vim_small, drop_path: 0.3}}",
    ],
)
def test_arguments_beside_a_published_name_win_over_the_published_ones(composed: Any, given: str) -> None:
    arguments = backbone(composed("--model.backbone", given)[0])["init_args"]
    assert (arguments["width"], arguments["drop_path"]) == (384, 0.3)


def test_another_published_name_of_the_same_class_replaces_the_earlier_one_whole(composed: Any, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(
        "model: {init_args: {backbone: {class_path: vim_tiny, init_args: {dropout: 1}}}}"
    )
    arguments = backbone(composed("--config", "tiny.yaml", "--model.backbone", "vim_base")[0])["init_args"]
    assert arguments == {"image_size": 224, "patch_size": 16, "width": 768, "depth": 24, "drop_path": 0.1}


def test_a_published_name_serves_within_an_adapter(composed: Any) -> None:
    given = "{class_path: SequenceOnImages, init_args: {backbone: mamba_130m, patch_size: 16}}"
    inner = backbone(composed("--model.backbone", given)[0])["init_args"]["backbone"]
    assert inner == {"class_path": "mambarium.backbones.Mamba", "init_args": {"width": 768, "depth": 24}}

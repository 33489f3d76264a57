"""Commands on a checkpoint alone, and what a checkpoint may name."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mambarium.errors import InputError
from mambarium.tasks import ImageClassification

pytestmark = pytest.mark.thorough

Run = Callable[..., int]

OWN_BACKBONE = """
from mambarium.backbones import Vim
open("imported", "w").close()
class Mine(Vim):
    pass
"""


@pytest.fixture
def trained(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The last checkpoint of a run named digits."""
    assert tiny("fit", "--config", "digits.yaml") == 0
    capsys.readouterr()
    return Path("runs/digits/checkpoints/last.ckpt")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8), 60 * index, np.uint8)).save(folder / f"{index}.png")
    return folder


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint whose configuration was edited."""
    checkpoint = torch.load(path, weights_only=True)
    config = yaml.safe_load(checkpoint["run_config"])
    change(config)
    checkpoint["run_config"] = yaml.safe_dump(config)
    torch.save(checkpoint, "changed.ckpt")
    return Path("changed.ckpt")


@pytest.mark.parametrize("which", [("--ckpt_path", "best", "--name", "digits"), ("--name", "digits"), ("--ckpt_path",)])
def test_a_checkpoint_is_tested_predicted_with_and_exported_alone(
    tiny: Run, trained: Path, images: Path, tmp_path: Path, which: tuple[str, ...]
) -> None:
    given = [*which, str(trained)] if which == ("--ckpt_path",) else list(which)
    (tmp_path / "digits.yaml").unlink()
    assert tiny("test", *given) == 0
    assert tiny("predict", *given, "--images", images) == 0
    assert tiny("export", *given, "--output", "weights.safetensors") == 0
    rows = (tmp_path / "runs" / "digits" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 4 and (tmp_path / "weights.safetensors").is_file()


def test_a_moved_checkpoint_writes_beside_no_other_run(
    tiny: Run, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.ckpt").write_bytes(trained.read_bytes())
    assert tiny("test", "--ckpt_path", "mine.ckpt") == 0
    assert (tmp_path / "runs" / "mine" / "test-mine.json").is_file()
    assert not (tmp_path / "runs" / "digits" / "test.json").exists()


def test_which_run_must_be_said(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("test", "--ckpt_path", "best") == 2
    assert "give --config FILE, --name RUN, or --ckpt_path FILE" in capsys.readouterr().err


def test_results_of_other_options_never_take_each_others_place(
    tiny: Run, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "runs" / "digits"
    for options in ([], ["--data.batch_size", "32"], [], ["--data.batch_size", "32"], ["--data.batch_size", "16"]):
        assert tiny("test", "--config", "digits.yaml", *options) == 0
    contents = {path.name: json.loads(path.read_text()) for path in sorted(results.glob("test*.json"))}
    assert list(contents) == ["test-2.json", "test-3.json", "test.json"]
    assert contents["test.json"]["changed"] == []
    assert contents["test-2.json"]["changed"] == ["data.init_args.batch_size: 64 -> 32"]
    assert contents["test-3.json"]["data"]["init_args"]["batch_size"] == 16


def test_help_says_what_is_evaluated_by_default(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tiny("test", "--help")
    assert "last (taken if not given)" in " ".join(capsys.readouterr().out.split())


def test_each_prompt_is_continued_as_if_it_were_given_alone(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("fit", "--config", "text.yaml") == 0
    options = ("predict", "--name", "text", "--max_new_tokens", 10)
    printed = []
    for prompts in (["--prompt", "The"], ["--prompt", "A with"], ["--prompt", "The", "--prompt", "A with"]):
        capsys.readouterr()
        assert tiny(*options, *prompts) == 0
        printed.append(capsys.readouterr().out)
    assert printed[2] == f"--- 1\n{printed[0]}--- 2\n{printed[1]}"


HOSTILE: dict[str, tuple[str, Any]] = {
    "own module as backbone": ("backbone", {"class_path": "own_module.Mine", "init_args": {}}),
    "own module as optimizer": ("optimizer", {"class_path": "own_module.Mine", "init_args": {}}),
    "own module as a text": ("optimizer", "own_module.Mine"),
    "function of Python": ("optimizer", {"class_path": "os.system", "init_args": {"command": "touch imported"}}),
    "function of torch": ("optimizer", {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a/b"}}),
    "function of torch as a text": ("optimizer", "torch.hub.load"),
    "function behind a trusted package": ("optimizer", {"class_path": "torch.os.system", "init_args": {}}),
    "class of another kind": ("optimizer", {"class_path": "torch.nn.Linear", "init_args": {}}),
    "no text": ("backbone", {"class_path": ["Vim"]}),
    "absurd size": ("backbone", {"class_path": "mambarium.backbones.Vim", "init_args": {"width": 2**40}}),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("command", ["test", "predict", "export"])
def test_a_checkpoint_never_decides_what_is_imported_or_called(
    tiny: Run,
    trained: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    command: str,
) -> None:
    (tmp_path / "own_module.py").write_text(OWN_BACKBONE)
    monkeypatch.syspath_prepend(str(tmp_path))
    key, value = HOSTILE[case]
    path = changed(trained, lambda config: config["model"]["init_args"].update({key: value}))
    options = {"test": [], "predict": ["--images", images], "export": ["--output", "weights.safetensors"]}[command]
    assert tiny(command, "--ckpt_path", path, *options) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "imported").exists()
    assert "own_module" not in sys.modules and not (tmp_path / "weights.safetensors").exists()


def test_a_module_that_the_user_trusts_may_be_named(
    tiny: Run, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trusted_module.py").write_text(OWN_BACKBONE)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = changed(
        trained, lambda config: config["model"]["init_args"]["backbone"].update(class_path="trusted_module.Mine")
    )
    assert tiny("test", "--ckpt_path", path) == 2
    assert "give --trust trusted_module" in capsys.readouterr().err and not (tmp_path / "imported").exists()
    assert tiny("test", "--ckpt_path", path, "--trust", "trusted_module") == 0
    assert tiny("export", "--ckpt_path", path, "--trust", "trusted_module", "--output", "x.safetensors") == 2
    assert "Mine" in capsys.readouterr().err  # a class of one's own has no published format


@pytest.mark.parametrize("config", ["a: [", "[1]", "model: 1", "model: {class_path: 3}\ndata: {}"])
def test_a_broken_configuration_in_a_checkpoint_is_named(
    tiny: Run, trained: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    torch.save({**checkpoint, "run_config": config}, "changed.ckpt")
    assert tiny("test", "--ckpt_path", "changed.ckpt") == 2
    assert "changed.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "hyper_parameters",
    [
        {"backbone": {"class_path": "hostile_module.Mine"}},
        {"optimizer": "hostile_module.Mine"},
        {"optimizer": {"class_path": "torch.hub.load"}},
        {"_instantiator": "os.system"},
    ],
)
def test_loading_in_python_imports_nothing_that_a_file_names(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hyper_parameters: dict[str, Any]
) -> None:
    (tmp_path / "hostile_module.py").write_text(OWN_BACKBONE)
    monkeypatch.syspath_prepend(str(tmp_path))
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["hyper_parameters"] |= hyper_parameters
    torch.save(checkpoint, "hostile.ckpt")
    with pytest.raises((InputError, ValueError), match=r"hostile_module|torch\.hub\.load|os\.system"):
        ImageClassification.load_from_checkpoint("hostile.ckpt")
    assert not (tmp_path / "imported").exists()
    with pytest.raises(InputError, match="weights_only"):
        ImageClassification.load_from_checkpoint(trained, weights_only=False)


@pytest.mark.parametrize(
    "options",
    [
        ("--model.optimizer", "os.system"),
        ("--model.optimizer", "{class_path: os.system, init_args: {command: touch imported}}"),
        ("--model.optimizer", "{class_path: torch.hub.load, init_args: {repo_or_dir: a}}"),
        ("--model.optimizer", "{class_path: subprocess.Popen, init_args: {args: touch imported, shell: true}}"),
        ("--model.schedule", "os.system"),
        ("--trainer.callbacks", "[{class_path: os.system, init_args: {command: touch imported}}]"),
        ("--trainer.logger", "{class_path: subprocess.Popen, init_args: {args: [touch, imported]}}"),
    ],
)
def test_what_a_yaml_names_must_be_of_the_kind_that_belongs_there(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    assert tiny("fit", "--config", "digits.yaml", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "imported").exists() and not (tmp_path / "runs").exists()

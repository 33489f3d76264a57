"""Runs that start from weights, and checkpoints written for others, through the command line."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.thorough

Run = Callable[..., int]

BACKBONE = ("--model.backbone", "{class_path: MambaOut, init_args: {depths: [1], widths: [8]}}")


@pytest.fixture
def source(tiny: Run, tmp_path: Path) -> Path:
    """The last checkpoint of a run."""
    assert tiny("fit", "--config", "digits.yaml", "--name", "source", *BACKBONE) == 0
    return tmp_path / "runs" / "source" / "checkpoints" / "last.ckpt"


def refusal(tiny: Run, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert tiny(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error, error
    return error


def test_a_run_starts_from_another_run_s_weights(
    tiny: Run, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("fit", "--config", "digits.yaml", *BACKBONE, "--name")
    wrong = refusal(tiny, capsys, *options, "tuned", "--model.pretrained", "nowhere.ckpt")
    assert "nowhere.ckpt: no such checkpoint" in wrong
    assert not (tmp_path / "runs" / "tuned").exists()

    # With nothing left to learn, what is saved is what was loaded.
    config = yaml.safe_load((tmp_path / "digits.yaml").read_text())
    config["model"]["init_args"] |= {"pretrained": str(source), "frozen_stages": 2, "layer_decay": 0.5}
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert tiny("fit", "--config", "tuned.yaml", *BACKBONE) == 0
    printed = capsys.readouterr().out
    assert printed.count("loaded       ") == 1 and "a checkpoint of this package" in printed
    record = json.loads((tmp_path / "runs" / "tuned" / "run.json").read_text())["pretrained"]
    assert record["source"] == str(source) and record["sha256"] == sha256(source.read_bytes()).hexdigest()
    before = torch.load(source, weights_only=True)["state_dict"]
    path = tmp_path / "runs" / "tuned" / "checkpoints" / "last.ckpt"
    after = torch.load(path, weights_only=True)
    assert after["pretrained"] == record
    for name, value in after["state_dict"].items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name

    source.unlink()
    capsys.readouterr()
    assert tiny("test", "--config", "tuned.yaml", *BACKBONE) == 0
    assert "loaded       " not in capsys.readouterr().out


def test_export_writes_the_official_format_once(
    tiny: Run, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("export", "--checkpoint", source, "--output")
    assert tiny(*options, "official.safetensors") == 0
    exported = load_file(tmp_path / "official.safetensors")
    state = torch.load(source, weights_only=True)["state_dict"]
    assert torch.equal(exported["stages.0.0.fc1.weight"], state["backbone.blocks.0.0.fc1.weight"])
    assert torch.equal(exported["head.fc2.bias"], state["objective.classifier.head.fc2.bias"])
    assert len(exported) == len(state)
    assert "official.safetensors exists" in refusal(tiny, capsys, *options, "official.safetensors")
    assert "suffix" in refusal(tiny, capsys, *options, "official.pth")
    message = refusal(tiny, capsys, *options, "hf", "--format", "transformers")
    assert "transformers has no ImageClassification with MambaOut" in message
    assert "one of official, transformers" in refusal(tiny, capsys, *options, "x", "--format", "onnx")
    assert "none.ckpt" in refusal(tiny, capsys, "export", "--checkpoint", "none.ckpt", "--output", "x.safetensors")
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    message = refusal(tiny, capsys, "export", "--checkpoint", "bare.ckpt", "--output", "x.safetensors")
    assert "say what its model is" in message
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    message = refusal(tiny, capsys, "export", "--checkpoint", "tensor.ckpt", "--output", "x.safetensors")
    assert "tensor.ckpt is no checkpoint: it holds a Tensor" in message
    assert "which run? give --config FILE" in refusal(tiny, capsys, "export", "--output", "x.safetensors")

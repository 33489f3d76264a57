"""Checkpoints from files, folders and the hub: what is read, and what is refused in one line."""

import argparse
import collections
import json
import os
import pickle
import sys
from pathlib import Path, PosixPath
from types import ModuleType

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from mambarium.backbones import Mamba, MambaOut, MambaVision, Vim, VMamba, from_variant, load_pretrained
from mambarium.backbones.published.source import read_checkpoint
from mambarium.backbones.published.writing import official_weights
from mambarium.errors import InputError


def small() -> MambaOut:
    return MambaOut(depths=(1, 1), widths=(16, 24))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return official_weights(small(), {})


def refusal(source: object, backbone: torch.nn.Module | None = None) -> str:
    backbone = backbone or small()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_pretrained(backbone, source)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    return str(error.value)


def is_loaded(backbone: MambaOut, weights: dict[str, Tensor]) -> bool:
    found = official_weights(backbone, {})
    return all(torch.equal(found[key], value) for key, value in weights.items())


def test_training_files_hold_harmless_objects_besides_weights(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class CfgNode(dict):
        pass

    module = ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]  # stands in for the package that official code uses
    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    content = {
        "model": weights,
        "epoch": 3,
        "max_accuracy": np.float64(81.2),
        "history": np.arange(3.0),
        "args": argparse.Namespace(lr=1e-3, output=PosixPath("out"), seen=collections.defaultdict(list)),
        "config": CfgNode(TRAIN=CfgNode(EPOCHS=300)),
    }
    torch.save(content, tmp_path / "training.pth")
    monkeypatch.undo()
    stored = read_checkpoint(tmp_path / "training.pth").content
    assert stored["args"].lr == 1e-3
    assert stored["config"] == {"TRAIN": {"EPOCHS": 300}}
    assert stored["max_accuracy"] == 81.2
    backbone = small()
    report = load_pretrained(backbone, tmp_path / "training.pth")
    assert is_loaded(backbone, weights) and not report.unexpected and not report.missing
    assert "entry 'model'" in report.weights


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Code()}, tmp_path / "code.pth")
    assert "code.pth holds Python objects that could run code (posix.mkdir)" in refusal(tmp_path / "code.pth")
    torch.save({"model": {"a": torch.zeros(1)}, "extra": Vim}, tmp_path / "class.pth")
    assert "mambarium.backbones.vision.vim.vim_backbone.Vim" in refusal(tmp_path / "class.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_missing_damaged_or_something_else(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    assert "no such checkpoint" in refusal(tmp_path / "none.pth")
    assert "no such checkpoint" in refusal("runs/none.ckpt")
    torch.save(weights, tmp_path / "whole.pth")
    save_file(weights, tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"cut.{name}").write_bytes(content[: len(content) // 2])
        assert "is damaged or no" in refusal(tmp_path / f"cut.{name}")
    for name, content in {"text.pth": b"hello world", "empty.pth": b"", "text.safetensors": b"hello world"}.items():
        (tmp_path / name).write_bytes(content)
        assert "is damaged or no" in refusal(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "it holds a list" in refusal(tmp_path / "list.pth")
    torch.save({"epoch": 1}, tmp_path / "bare.pth")
    assert "holds no named tensors" in refusal(tmp_path / "bare.pth")
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "other.pth")
    assert "no format known here (it begins with conv1.weight, fc.bias)" in refusal(tmp_path / "other.pth")


def test_folders_as_transformers_writes_them(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    assert "a folder with none of model.safetensors" in refusal(tmp_path)
    keys = list(weights)
    parts = {"part-1.safetensors": keys[:5], "part-2.safetensors": keys[5:]}
    for name, names in parts.items():
        save_file({key: weights[key] for key in names}, tmp_path / name)
    index = {"weight_map": {key: name for name, names in parts.items() for key in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    backbone = small()
    load_pretrained(backbone, tmp_path)
    assert is_loaded(backbone, weights)
    (tmp_path / "part-2.safetensors").unlink()
    assert "names part-2.safetensors, which is not there" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert "is no index of a checkpoint's parts" in refusal(tmp_path)


def test_hub_names_come_from_the_cache_or_say_that_there_is_no_network(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("someone/mambaout-1.5b", "someone/mambaout-1.5b:weights.pth"):
        assert "hub can't be reached; give a local file, null for fresh weights, or" in refusal(name)
    repository = tmp_path / "models--someone--mambaout-1.5b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(weights, snapshot / "model.safetensors")
    torch.save({key: value + 1 for key, value in weights.items()}, snapshot / "weights.pth")
    backbone = small()
    load_pretrained(backbone, "someone/mambaout-1.5b")
    assert is_loaded(backbone, weights)
    load_pretrained(backbone, "someone/mambaout-1.5b:weights.pth")
    assert is_loaded(backbone, {key: value + 1 for key, value in weights.items()})


def published_file(name: str, path: Path) -> None:
    """A file with the shapes of a variant, without its size: every tensor one number."""
    with torch.device("meta"):
        backbone = from_variant(name)
    stored = {key: torch.zeros(()).expand(value.shape) for key, value in official_weights(backbone, {}).items()}
    torch.save(stored, path)


def test_another_variant_is_refused_with_the_name_of_the_one_that_fits(tmp_path: Path) -> None:
    published_file("mambaout_kobe", tmp_path / "kobe.pth")
    with torch.device("meta"):
        femto = from_variant("mambaout_femto")
    with pytest.raises(InputError, match=r"has stages.2.9.*it is of the variant mambaout_kobe$"):
        load_pretrained(femto, tmp_path / "kobe.pth")
    message = refusal(tmp_path / "kobe.pth")
    assert "downsample_layers.0.conv1.weight (24, 3, 3, 3) -> (8, 3, 3, 3)" in message
    assert "MambaOut (yuweihao/MambaOut)" in message and message.endswith("variant mambaout_kobe")
    message = refusal(tmp_path / "kobe.pth", VMamba(depths=(1,), widths=(16,)))
    assert "the backbone is VMamba" in message and message.endswith("variant mambaout_kobe")


def test_a_file_that_fits_no_variant_says_so(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    del weights["stages.1.0.norm.bias"]
    torch.save(weights, tmp_path / "lacking.pth")
    message = refusal(tmp_path / "lacking.pth")
    assert "the file lacks stages.1.0.norm.bias" in message and "fits none of the published variants" in message


def test_a_family_without_published_weights_says_which_have_them() -> None:
    from mambarium.backbones import LSTM

    with pytest.raises(InputError, match="LSTM has no published format; those that have one are Mamba, Vim, VMamba"):
        official_weights(LSTM(width=8, depth=1), {})
    with pytest.raises(InputError, match="set ssm to false"):
        official_weights(MambaOut(depths=(1,), widths=(16,), ssm=True), {})


@pytest.mark.parametrize("class_token", [True, False])
def test_positions_are_interpolated_around_the_middle_class_token(tmp_path: Path, class_token: bool) -> None:
    sizes = {"patch_size": 4, "width": 8, "depth": 1, "d_state": 2}
    torch.manual_seed(0)
    stored = official_weights(Vim(image_size=12, **sizes), {})
    assert stored["pos_embed"].shape == (1, 10, 8)
    torch.save({"model": stored}, tmp_path / "vim.pth")
    backbone = Vim(image_size=20, class_token=class_token, **sizes)
    report = load_pretrained(backbone, tmp_path / "vim.pth")
    rows = [row for row in range(10) if row != 4]
    grid = stored["pos_embed"][:, rows].transpose(1, 2).reshape(1, 8, 3, 3)
    grid = torch.nn.functional.interpolate(grid, size=(5, 5), mode="bicubic", align_corners=False)
    expected = grid.flatten(2).transpose(1, 2)
    if class_token:
        expected = torch.cat([expected[:, :12], stored["pos_embed"][:, 4:5], expected[:, 12:]], dim=1)
    torch.testing.assert_close(backbone.pos_embed.detach(), expected)
    assert report.reshaped == [f"pos_embed (1, 10, 8) -> (1, {25 + class_token}, 8)"]
    assert report.unexpected == ([] if class_token else ["cls_token"])


def test_positions_of_another_width_or_without_a_class_token_do_not_fit() -> None:
    backbone = Vim(image_size=8, patch_size=4, width=8, depth=1, d_state=2)
    for shape in ((1, 5, 16), (1, 7, 8), (1, 9, 8), (5, 8)):
        assert backbone.resized("pos_embed", torch.zeros(shape)) is None
    assert backbone.resized("cls_token", torch.zeros(1, 5, 8)) is None


def test_batch_counters_may_be_missing_and_a_detector_around_the_model_is_left_out(tmp_path: Path) -> None:
    backbone = MambaVision(depths=(1, 1), width=8, stem_width=8, num_heads=(2,), window_sizes=(2,))
    stored = official_weights(backbone, {})
    detector = {f"backbone.{key}": value for key, value in stored.items() if not key.endswith("num_batches_tracked")}
    detector |= {"neck.conv.weight": torch.zeros(2), "backbone.outnorm0.weight": torch.zeros(8)}
    torch.save({"state_dict": detector}, tmp_path / "detector.pth")
    report = load_pretrained(backbone, tmp_path / "detector.pth")
    assert sorted(report.unexpected) == ["neck.conv.weight", "outnorm0.weight"]
    assert report.missing and all(name.endswith("num_batches_tracked") for name in report.missing)
    text = str(report)
    assert len(text.splitlines()) < 12 and "MambaVision (NVlabs/MambaVision)" in text and report.sha256 in text


def test_averaged_weights_are_taken_where_the_official_code_evaluates_them(tmp_path: Path) -> None:
    backbone = VMamba(depths=(1,), widths=(16,))
    plain = official_weights(backbone, {})
    average = {key: value + 1 for key, value in plain.items()}
    torch.save({"model": plain, "model_ema": average}, tmp_path / "vmamba.pth")
    for ema, expected, words in (
        (None, average, "averaged over training (its entry 'model_ema'; 'model' is there too)"),
        (True, average, "averaged over training"),
        (False, plain, "plain weights (its entry 'model'; 'model_ema' is there too)"),
    ):
        report = load_pretrained(backbone, tmp_path / "vmamba.pth", ema=ema)
        assert words in report.weights
        found = official_weights(backbone, {})
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    mambaout = small()
    stored = official_weights(mambaout, {})
    torch.save({"state_dict": stored, "state_dict_ema": average}, tmp_path / "mambaout.pth")
    assert "plain weights" in load_pretrained(mambaout, tmp_path / "mambaout.pth").weights
    torch.save({"model": plain}, tmp_path / "alone.pth")
    with pytest.raises(InputError, match="has no averaged weights"):
        load_pretrained(backbone, tmp_path / "alone.pth", ema=True)


def test_mamba_2_is_not_taken_for_mamba(tmp_path: Path) -> None:
    stored = {"backbone.embedding.weight": torch.zeros(8, 4), "backbone.layers.0.mixer.dt_bias": torch.zeros(4)}
    torch.save(stored, tmp_path / "mamba2.bin")
    assert "no format known here" in refusal(tmp_path / "mamba2.bin", Mamba(width=8, depth=1, d_state=2))


def test_a_plain_pickle_is_refused_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps({"weights": [1.0, 2.0]}, protocol=4))
    with pytest.raises(InputError, match="is damaged or no checkpoint"):
        read_checkpoint(file)
    assert not recwarn.list

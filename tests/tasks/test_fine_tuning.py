"""Runs that start from other weights: what they load and keep, which layers they train and how fast."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from mambarium.backbones import LoadReport, Mamba, MambaOut, MambaVision, Vim
from mambarium.errors import InputError
from mambarium.tasks import (
    ImageClassification,
    LanguageModeling,
    SemanticSegmentation,
    export_official,
    load_pretrained,
)
from mambarium.tasks.task import Task


def mambaout(num_classes: int = 7, **options: Any) -> ImageClassification:
    return ImageClassification(MambaOut(depths=(1, 1), widths=(8, 12)), num_classes, **options)


class Constant(Dataset[dict[str, Any]]):
    """The same few images and labels, without any source of randomness."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= 8:
            raise IndexError
        return {"image": torch.full((3, 16, 16), index / 8), "label": index % 3}

    def __len__(self) -> int:
        return 8


def fit(task: Task, folder: Path, steps: int, checkpoint: Path | None = None) -> Trainer:
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    trainer = Trainer(max_steps=steps, **options)
    trainer.fit(task, DataLoader(Constant(), batch_size=4), ckpt_path=checkpoint)
    return trainer


def test_a_run_starts_from_its_weights_once_and_keeps_what_they_were(tmp_path: Path) -> None:
    export_official(mambaout(), tmp_path / "official.safetensors")
    weights = load_file(tmp_path / "official.safetensors")

    def build() -> ImageClassification:
        return mambaout(num_classes=3, pretrained=str(tmp_path / "official.safetensors"))

    task = build()
    assert task.pretrained_record is None  # building reads nothing
    trainer = fit(task, tmp_path, steps=1)
    moved = task.backbone.state_dict()["blocks.0.0.fc1.weight"] - weights["stages.0.0.fc1.weight"]
    assert 0 < moved.abs().max() < 1e-2
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    record = torch.load(tmp_path / "run.ckpt", weights_only=True)["pretrained"]
    assert record["format"] == "MambaOut (yuweihao/MambaOut)" and len(record["sha256"]) == 64

    (tmp_path / "official.safetensors").unlink()
    resumed = build()
    fit(resumed, tmp_path, steps=2, checkpoint=tmp_path / "run.ckpt")
    assert resumed.pretrained_record == record
    continued = ImageClassification.load_from_checkpoint(tmp_path / "run.ckpt", backbone=mambaout().backbone)
    fit(continued, tmp_path, steps=1)
    with pytest.raises(InputError, match=r"official\.safetensors: no such checkpoint"):
        fit(build(), tmp_path, steps=1)


def checkpoint_of(task: Task, folder: Path) -> Path:
    fit(task, folder, steps=1).save_checkpoint(folder / "ours.ckpt")
    return folder / "ours.ckpt"


def test_our_own_checkpoints_serve_other_tasks(tmp_path: Path) -> None:
    source = mambaout()
    path = checkpoint_of(source, tmp_path)
    target = mambaout(num_classes=3)
    report: LoadReport = load_pretrained(target, path)
    assert report.format == "a checkpoint of this package"
    assert [name.split()[0] for name in report.fresh] == ["classifier.head.fc2.weight", "classifier.head.fc2.bias"]
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(target.backbone.state_dict()[name], value)
    same = mambaout()
    assert not load_pretrained(same, path).fresh
    dense = SemanticSegmentation(mambaout().backbone, num_classes=3)
    report = load_pretrained(dense, path)
    assert torch.equal(dense.backbone.blocks[1][0].fc1.weight, source.backbone.blocks[1][0].fc1.weight)
    assert all(name.endswith("(not in the file)") for name in report.fresh) and report.fresh
    assert {name.split(".")[0] for name in report.unexpected} == {"objective"}
    other = ImageClassification(MambaOut(depths=(1, 2), widths=(8, 12)), num_classes=7)
    with pytest.raises(InputError, match=r"another MambaOut.*backbone.blocks.1.1.*that it was trained with"):
        load_pretrained(other, path)
    with pytest.raises(InputError, match="another Vim"):
        load_pretrained(ImageClassification(Vim(image_size=8, patch_size=4, width=8, depth=1), 7), path)


def test_of_a_run_with_averaged_weights_the_average_is_taken(tmp_path: Path) -> None:
    average = mambaout().state_dict()
    plain = {name: value + 1 for name, value in average.items()}
    content = {"pytorch-lightning_version": "2.6.6", "averaging_state": {"n_averaged": torch.tensor(3)}}
    torch.save(content | {"state_dict": average, "current_model_state": plain}, tmp_path / "averaged.ckpt")
    task = mambaout()
    for ema, expected in ((None, average), (False, plain), (True, average)):
        report = load_pretrained(task, tmp_path / "averaged.ckpt", ema=ema)
        assert ("averaged over training" in report.weights) == (expected is average)
        assert all(torch.equal(value, expected[name]) for name, value in task.state_dict().items())


def test_layers_learn_the_slower_the_nearer_they_are_to_the_input(tmp_path: Path) -> None:
    task = mambaout(layer_decay=0.5, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1.0))
    optimizer = fit(task, tmp_path, steps=1).optimizers[0]
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "backbone.downsample_layers.0.conv1.weight": 1 / 8,
        "backbone.blocks.0.0.fc1.weight": 1 / 4,
        "backbone.downsample_layers.1.norm.bias": 1 / 2,
        "backbone.blocks.1.0.conv.bias": 1 / 2,
        "objective.classifier.norm.weight": 1.0,
        "objective.classifier.head.fc2.weight": 1.0,
    }
    parameters = dict(task.named_parameters())
    assert {name: rates[id(parameters[name])] for name in expected} == expected
    assert len(rates) == len(parameters) == sum(len(group["params"]) for group in optimizer.param_groups)
    undecayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert id(parameters["backbone.downsample_layers.1.norm.bias"]) in undecayed
    assert id(parameters["backbone.blocks.0.0.fc1.weight"]) not in undecayed
    for wrong in (0.0, 1.5, -1.0):
        with pytest.raises(InputError, match="layer_decay is"):
            mambaout(layer_decay=wrong)


def test_frozen_stages_stay_as_they_are_batch_norms_included(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"depths": (1, 1), "width": 8, "stem_width": 6, "num_heads": (2,), "window_sizes": (4,)}
    backbone = MambaVision(**sizes, attention="first_half")
    task = ImageClassification(backbone, num_classes=3, frozen_stages=2)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    fit(task, tmp_path, steps=2)
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    frozen = ("backbone.downsample_layers.0.", "backbone.levels.0.")
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("backbone.levels.1.") for name in changed)
    assert "objective.classifier.norm.running_mean" in changed
    for wrong in (-1, 4):
        with pytest.raises(InputError, match="MambaVision has 3, give 0 to 3"):
            ImageClassification(backbone, num_classes=3, frozen_stages=wrong)
    language = LanguageModeling(Mamba(width=8, depth=3, d_state=2), vocab_size=5, frozen_stages=2)
    trained = {name.split(".")[2] for name, p in language.named_parameters() if p.requires_grad and ".layers." in name}
    assert trained == {"2"}

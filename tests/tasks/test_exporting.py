"""Tasks written as files that other programs read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mambarium.backbones import LocalVim, LocalVMamba, Mamba, Vim
from mambarium.errors import InputError
from mambarium.tasks import (
    ImageClassification,
    LanguageModeling,
    export_official,
    export_transformers,
    load_pretrained,
)

pytestmark = pytest.mark.thorough


def test_transformers_reads_our_mamba_and_gives_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    task = LanguageModeling(Mamba(width=48, depth=2), vocab_size=60).eval()
    export_transformers(task, tmp_path / "hf")
    with pytest.raises(InputError, match="hf exists"):
        export_transformers(task, tmp_path / "hf")
    theirs = transformers.MambaForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.randint(60, (2, 37))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, task(tokens), rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    again = LanguageModeling(Mamba(width=48, depth=2), vocab_size=60)
    report = load_pretrained(again, tmp_path / "theirs")
    assert report.format == "Mamba (transformers)" and not report.unexpected
    assert all(torch.equal(value, task.state_dict()[key]) for key, value in again.state_dict().items())


def test_transformers_has_no_other_model(tmp_path: Path) -> None:
    task = ImageClassification(Vim(image_size=8, patch_size=4, width=8, depth=1, d_state=2), num_classes=7)
    with pytest.raises(InputError, match="transformers has no ImageClassification with Vim"):
        export_transformers(task, tmp_path / "hf")
    with pytest.raises(InputError, match="give a name with that suffix"):
        export_official(task, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("build", "title", "key"),
    [
        (
            lambda: LocalVim(8, 4, 8, (("rows", "window_2"),), d_state=2),
            "LocalVim (hunto/LocalMamba)",
            "layers.0.mixer.x_proj_1.weight",
        ),
        (
            lambda: LocalVMamba((1,), (8,), (("rows", "window_2"),), d_state=2),
            "LocalVMamba (hunto/LocalMamba)",
            "layers.0.blocks.0.op.x_proj_weight",
        ),
    ],
    ids=["local_vim", "local_vmamba"],
)
def test_local_mamba_is_written_and_read(
    build: Callable[[], LocalVim | LocalVMamba], title: str, key: str, tmp_path: Path
) -> None:
    task = ImageClassification(build(), num_classes=3)
    export_official(task, tmp_path / "official.safetensors")
    stored = load_file(tmp_path / "official.safetensors")
    assert key in stored
    torch.save({"state_dict": stored}, tmp_path / "official.pth")
    fresh = ImageClassification(build(), num_classes=3)
    assert load_pretrained(fresh, tmp_path / "official.pth").format == title
    for name, value in task.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name

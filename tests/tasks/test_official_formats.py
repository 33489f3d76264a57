"""Official files into tasks and back.

The keys and shapes below are those of the official code, written down by hand for small sizes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mambarium.backbones import Mamba, MambaOut, MambaVision, SequenceOnImages, Vim, VMamba
from mambarium.errors import InputError
from mambarium.tasks import (
    ImageClassification,
    LanguageModeling,
    SemanticSegmentation,
    export_official,
    load_pretrained,
)
from mambarium.tasks.task import Task

pytestmark = pytest.mark.thorough

Shapes = dict[str, tuple[int, ...]]


def with_bias(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


MAMBA: Shapes = {
    "backbone.embedding.weight": (16, 8),
    "backbone.layers.0.mixer.A_log": (16, 2),
    "backbone.layers.0.mixer.D": (16,),
    "backbone.layers.0.mixer.in_proj.weight": (32, 8),
    **with_bias("backbone.layers.0.mixer.conv1d", 16, 1, 4),
    "backbone.layers.0.mixer.x_proj.weight": (5, 16),
    **with_bias("backbone.layers.0.mixer.dt_proj", 16, 1),
    "backbone.layers.0.mixer.out_proj.weight": (8, 16),
    "backbone.layers.0.norm.weight": (8,),
    "backbone.norm_f.weight": (8,),
    "lm_head.weight": (16, 8),
}
MAMBA_TRANSFORMERS: Shapes = {
    key.replace("embedding.", "embeddings."): shape for key, shape in MAMBA.items() if key != "lm_head.weight"
}
VIM: Shapes = {
    "cls_token": (1, 1, 8),
    "pos_embed": (1, 5, 8),
    **with_bias("patch_embed.proj", 8, 3, 4, 4),
    **with_bias("head", 7, 8),
    "norm_f.weight": (8,),
    "layers.0.norm.weight": (8,),
    "layers.0.mixer.in_proj.weight": (32, 8),
    "layers.0.mixer.out_proj.weight": (8, 16),
    **{f"layers.0.mixer.{name}": (16, 2) for name in ("A_log", "A_b_log")},
    **{f"layers.0.mixer.{name}": (16,) for name in ("D", "D_b")},
    **with_bias("layers.0.mixer.conv1d", 16, 1, 4),
    **with_bias("layers.0.mixer.conv1d_b", 16, 1, 4),
    **{f"layers.0.mixer.{name}.weight": (5, 16) for name in ("x_proj", "x_proj_b")},
    **with_bias("layers.0.mixer.dt_proj", 16, 1),
    **with_bias("layers.0.mixer.dt_proj_b", 16, 1),
}


def vss_block(block: str, width: int, inner: int, d_state: int, gate: bool) -> Shapes:
    op = f"{block}.op"
    return {
        **with_bias(f"{block}.norm", width),
        f"{op}.x_proj_weight": (4, 1 + 2 * d_state, inner),
        f"{op}.A_logs": (4 * inner, d_state),
        f"{op}.Ds": (4 * inner,),
        f"{op}.dt_projs_weight": (4, inner, 1),
        f"{op}.dt_projs_bias": (4, inner),
        **with_bias(f"{op}.out_norm", inner),
        f"{op}.in_proj.weight": (2 * inner if gate else inner, width),
        f"{op}.conv2d.weight": (inner, 1, 3, 3),
        **({f"{op}.conv2d.bias": (inner,)} if gate else {}),
        f"{op}.out_proj.weight": (width, inner),
    }


VMAMBA: Shapes = {
    **with_bias("patch_embed.0", 4, 3, 3, 3),
    **with_bias("patch_embed.2", 4),
    **with_bias("patch_embed.5", 8, 4, 3, 3),
    **with_bias("patch_embed.7", 8),
    **vss_block("layers.0.blocks.0", 8, 8, 1, gate=False),
    **with_bias("layers.0.blocks.0.norm2", 8),
    **with_bias("layers.0.blocks.0.mlp.fc1", 16, 8),
    **with_bias("layers.0.blocks.0.mlp.fc2", 8, 16),
    **with_bias("layers.0.downsample.1", 16, 8, 3, 3),
    **with_bias("layers.0.downsample.3", 16),
    **vss_block("layers.1.blocks.0", 16, 16, 1, gate=False),
    **with_bias("layers.1.blocks.0.norm2", 16),
    **with_bias("layers.1.blocks.0.mlp.fc1", 32, 16),
    **with_bias("layers.1.blocks.0.mlp.fc2", 16, 32),
    **with_bias("classifier.norm", 16),
    **with_bias("classifier.head", 7, 16),
}
VMAMBA_V0: Shapes = {
    **with_bias("patch_embed.0", 8, 3, 4, 4),
    **with_bias("patch_embed.2", 8),
    **vss_block("layers.0.blocks.0", 8, 16, 2, gate=True),
    "layers.0.downsample.reduction.weight": (16, 32),
    **with_bias("layers.0.downsample.norm", 32),
    **vss_block("layers.1.blocks.0", 16, 32, 2, gate=True),
    **with_bias("classifier.norm", 16),
    **with_bias("classifier.head", 7, 16),
}


def former(key: str) -> str:
    """As the code that trained VMamba's first generation called it."""
    key = key.replace("patch_embed.0", "patch_embed.proj").replace("patch_embed.2", "patch_embed.norm")
    key = key.replace(".op.", ".self_attention.").replace("blocks.0.norm.", "blocks.0.ln_1.")
    return key.removeprefix("classifier.")


VMAMBA_FORMER: Shapes = {former(key): shape for key, shape in VMAMBA_V0.items()}


def batch_norm(name: str, width: int) -> Shapes:
    running = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return with_bias(name, width) | running


def mixer_block(block: str) -> Shapes:
    return {
        **with_bias(f"{block}.norm1", 16),
        **with_bias(f"{block}.norm2", 16),
        **with_bias(f"{block}.mlp.fc1", 32, 16),
        **with_bias(f"{block}.mlp.fc2", 16, 32),
        f"{block}.gamma_1": (16,),
        f"{block}.gamma_2": (16,),
    }


MAMBAVISION: Shapes = {
    "patch_embed.conv_down.0.weight": (6, 3, 3, 3),
    **batch_norm("patch_embed.conv_down.1", 6),
    "patch_embed.conv_down.3.weight": (8, 6, 3, 3),
    **batch_norm("patch_embed.conv_down.4", 8),
    **with_bias("levels.0.blocks.0.conv1", 8, 8, 3, 3),
    **batch_norm("levels.0.blocks.0.norm1", 8),
    **with_bias("levels.0.blocks.0.conv2", 8, 8, 3, 3),
    **batch_norm("levels.0.blocks.0.norm2", 8),
    "levels.0.downsample.reduction.0.weight": (16, 8, 3, 3),
    **mixer_block("levels.1.blocks.0"),
    "levels.1.blocks.0.mixer.A_log": (8, 2),
    "levels.1.blocks.0.mixer.D": (8,),
    "levels.1.blocks.0.mixer.in_proj.weight": (16, 16),
    "levels.1.blocks.0.mixer.x_proj.weight": (5, 8),
    **with_bias("levels.1.blocks.0.mixer.dt_proj", 8, 1),
    "levels.1.blocks.0.mixer.out_proj.weight": (16, 16),
    "levels.1.blocks.0.mixer.conv1d_x.weight": (8, 1, 3),
    "levels.1.blocks.0.mixer.conv1d_z.weight": (8, 1, 3),
    **mixer_block("levels.1.blocks.1"),
    **with_bias("levels.1.blocks.1.mixer.qkv", 48, 16),
    **with_bias("levels.1.blocks.1.mixer.proj", 16, 16),
    **batch_norm("norm", 16),
    **with_bias("head", 7, 16),
}


def gated_block(block: str, width: int, hidden: int) -> Shapes:
    return {
        **with_bias(f"{block}.norm", width),
        **with_bias(f"{block}.fc1", 2 * hidden, width),
        **with_bias(f"{block}.conv", width, 1, 7, 7),
        **with_bias(f"{block}.fc2", width, hidden),
    }


MAMBAOUT: Shapes = {
    **with_bias("downsample_layers.0.conv1", 4, 3, 3, 3),
    **with_bias("downsample_layers.0.norm1", 4),
    **with_bias("downsample_layers.0.conv2", 8, 4, 3, 3),
    **with_bias("downsample_layers.0.norm2", 8),
    **with_bias("downsample_layers.1.conv", 12, 8, 3, 3),
    **with_bias("downsample_layers.1.norm", 12),
    **gated_block("stages.0.0", 8, 21),
    **gated_block("stages.1.0", 12, 32),
    **with_bias("norm", 12),
    **with_bias("head.fc1", 48, 12),
    **with_bias("head.norm", 48),
    **with_bias("head.fc2", 7, 48),
}
MAMBAOUT_TIMM: Shapes = {
    **with_bias("stem.conv1", 4, 3, 3, 3),
    **with_bias("stem.norm1", 4),
    **with_bias("stem.conv2", 8, 4, 3, 3),
    **with_bias("stem.norm2", 8),
    **with_bias("stages.1.downsample.conv", 12, 8, 3, 3),
    **with_bias("stages.1.downsample.norm", 12),
    **gated_block("stages.0.blocks.0", 8, 21),
    **gated_block("stages.1.blocks.0", 12, 32),
    **with_bias("head.norm", 12),
    **with_bias("head.pre_logits.fc", 48, 12),
    **with_bias("head.pre_logits.norm", 48),
    **with_bias("head.fc", 7, 48),
}


def mamba(vocab_size: int = 16, tie_embedding: bool = True) -> LanguageModeling:
    return LanguageModeling(Mamba(width=8, depth=1, d_state=2), vocab_size, tie_embedding)


def vim() -> ImageClassification:
    return ImageClassification(Vim(image_size=8, patch_size=4, width=8, depth=1, d_state=2), num_classes=7)


def vmamba() -> ImageClassification:
    return ImageClassification(VMamba(depths=(1, 1), widths=(8, 16), mlp_ratio=2.0), num_classes=7)


def vmamba_v0() -> ImageClassification:
    backbone = VMamba("v0", depths=(1, 1), widths=(8, 16), d_state=2, ssm_ratio=2.0, mlp_ratio=0.0)
    return ImageClassification(backbone, num_classes=7)


def mambavision() -> ImageClassification:
    sizes: dict[str, Any] = {"depths": (1, 2), "width": 8, "stem_width": 6, "num_heads": (2,), "window_sizes": (2,)}
    return ImageClassification(MambaVision(**sizes, mlp_ratio=2.0, d_state=2, layer_scale=1e-5), num_classes=7)


def mambaout(num_classes: int = 7) -> ImageClassification:
    return ImageClassification(MambaOut(depths=(1, 1), widths=(8, 12)), num_classes)


# Model, keys, title, and places that keys of equal shapes must not swap.
FORMATS: dict[str, tuple[Callable[[], Task], Shapes, str, dict[str, str]]] = {
    "mamba": (
        mamba,
        MAMBA,
        "Mamba (state-spaces/mamba)",
        {
            "backbone.layers.0.norm.weight": "backbone.layers.0.norm.weight",
            "backbone.norm_f.weight": "backbone.norm_f.weight",
            "backbone.embedding.weight": "objective.embedding.weight",
        },
    ),
    "mamba-transformers": (
        mamba,
        MAMBA_TRANSFORMERS,
        "Mamba (transformers)",
        {
            "backbone.layers.0.mixer.D": "backbone.layers.0.mixer.ssm.D",
            "backbone.embeddings.weight": "objective.head.weight",
        },
    ),
    "vim": (
        vim,
        VIM,
        "Vim (hustvl/Vim)",
        {
            "layers.0.mixer.A_log": "backbone.layers.0.mixer.forward_ssm.A_log",
            "layers.0.mixer.A_b_log": "backbone.layers.0.mixer.backward_ssm.A_log",
            "layers.0.mixer.D_b": "backbone.layers.0.mixer.backward_ssm.D",
            "layers.0.mixer.conv1d_b.bias": "backbone.layers.0.mixer.backward_ssm.conv1d.bias",
            "layers.0.mixer.dt_proj.weight": "backbone.layers.0.mixer.forward_ssm.dt_proj.weight",
            "layers.0.mixer.x_proj_b.weight": "backbone.layers.0.mixer.backward_ssm.x_proj.weight",
            "norm_f.weight": "objective.classifier.norm_f.weight",
        },
    ),
    "vmamba": (
        vmamba,
        VMAMBA,
        "VMamba (MzeroMiko/VMamba)",
        {
            "layers.0.blocks.0.norm.weight": "backbone.blocks.0.0.norm.weight",
            "layers.0.blocks.0.norm2.weight": "backbone.blocks.0.0.mlp.norm.weight",
            "layers.0.blocks.0.op.out_norm.weight": "backbone.blocks.0.0.ss2d.out_norm.weight",
            "patch_embed.2.bias": "backbone.stem.norm1.bias",
            "layers.0.downsample.3.weight": "backbone.downsample_layers.0.norm.weight",
            "classifier.norm.bias": "objective.classifier.norm.bias",
        },
    ),
    "vmamba-former": (
        vmamba_v0,
        VMAMBA_FORMER,
        "VMamba (MzeroMiko/VMamba)",
        {
            "layers.1.blocks.0.ln_1.weight": "backbone.blocks.1.0.norm.weight",
            "layers.0.downsample.norm.bias": "backbone.downsample_layers.0.merged_norm.bias",
            "norm.weight": "objective.classifier.norm.weight",
        },
    ),
    "mambavision": (
        mambavision,
        MAMBAVISION,
        "MambaVision (NVlabs/MambaVision)",
        {
            "patch_embed.conv_down.4.running_var": "backbone.downsample_layers.0.norm2.running_var",
            "levels.0.blocks.0.norm1.weight": "backbone.levels.0.0.norm1.weight",
            "levels.1.blocks.0.mixer.conv1d_x.weight": "backbone.levels.1.0.mixer.conv1d_x.weight",
            "levels.1.blocks.0.mixer.conv1d_z.weight": "backbone.levels.1.0.mixer.conv1d_z.weight",
            "levels.1.blocks.1.gamma_2": "backbone.levels.1.1.gamma_2",
            "levels.0.downsample.reduction.0.weight": "backbone.downsample_layers.1.weight",
            "norm.running_mean": "objective.classifier.norm.running_mean",
        },
    ),
    "mambaout": (
        mambaout,
        MAMBAOUT,
        "MambaOut (yuweihao/MambaOut)",
        {
            "norm.weight": "objective.classifier.norm.weight",
            "head.norm.weight": "objective.classifier.head.norm.weight",
            "stages.1.0.norm.bias": "backbone.blocks.1.0.norm.bias",
            "downsample_layers.1.norm.bias": "backbone.downsample_layers.1.norm.bias",
        },
    ),
    "mambaout-timm": (
        mambaout,
        MAMBAOUT_TIMM,
        "MambaOut (timm)",
        {
            "head.norm.weight": "objective.classifier.norm.weight",
            "head.pre_logits.norm.weight": "objective.classifier.head.norm.weight",
            "stages.1.downsample.norm.bias": "backbone.downsample_layers.1.norm.bias",
            "stages.1.blocks.0.norm.bias": "backbone.blocks.1.0.norm.bias",
        },
    ),
}


def drawn(shapes: Shapes) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = {
        key: torch.tensor(5) if key.endswith("num_batches_tracked") else torch.randn(shape, generator=generator)
        for key, shape in shapes.items()
    }
    if "lm_head.weight" in weights:
        weights["lm_head.weight"] = weights["backbone.embedding.weight"]
    return weights


@pytest.mark.parametrize("name", FORMATS)
def test_every_tensor_of_an_official_file_comes_to_its_place_and_back(name: str, tmp_path: Path) -> None:
    build, shapes, title, places = FORMATS[name]
    weights = drawn(shapes)
    torch.save({"model": weights}, tmp_path / "official.pth")
    task = build()
    report = load_pretrained(task, tmp_path / "official.pth")
    state = task.state_dict()
    assert report.format == title
    assert not (report.missing or report.unexpected or report.reshaped or report.fresh)
    assert len(report.matched) == len(state)
    for key, place in places.items():
        assert torch.equal(state[place], weights[key]), key

    export_official(task, tmp_path / "export.safetensors")
    exported = load_file(tmp_path / "export.safetensors")
    present = {"mamba-transformers": MAMBA, "vmamba-former": VMAMBA_V0, "mambaout-timm": MAMBAOUT}.get(name, shapes)
    untied = {key: shape for key, shape in present.items() if key != "lm_head.weight"}
    assert {key: tuple(value.shape) for key, value in exported.items()} == untied
    again = build()
    load_pretrained(again, tmp_path / "export.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    with pytest.raises(InputError, match=r"export\.safetensors exists"):
        export_official(task, tmp_path / "export.safetensors")


@pytest.mark.parametrize("name", ["vim", "mambaout-timm"])
def test_a_key_too_few_or_too_many_is_noticed(name: str, tmp_path: Path) -> None:
    build, shapes, _, places = FORMATS[name]
    weights = drawn(shapes)
    moved = next(key for key, place in places.items() if place.startswith("backbone."))
    weights[moved + "x"] = weights.pop(moved)
    torch.save(weights, tmp_path / "official.pth")
    with pytest.raises(InputError, match=r"the file lacks .*it fits none of the published variants"):
        load_pretrained(build(), tmp_path / "official.pth")


def test_a_head_for_other_classes_is_left_fresh_and_reported(tmp_path: Path) -> None:
    weights = drawn(MAMBAOUT)
    torch.save(weights, tmp_path / "official.pth")
    task = mambaout(num_classes=3)
    fresh = task.objective.classifier.head.fc2.weight.clone()
    report = load_pretrained(task, tmp_path / "official.pth")
    assert report.fresh == ["classifier.head.fc2.weight (7, 48) -> (3, 48)", "classifier.head.fc2.bias (7,) -> (3,)"]
    assert torch.equal(task.objective.classifier.head.fc2.weight, fresh)
    assert torch.equal(task.objective.classifier.head.fc1.weight, weights["head.fc1.weight"])
    assert "fresh        classifier.head.fc2.weight (7, 48) -> (3, 48)" in str(report)


def test_of_a_vocabulary_of_another_size_the_rows_that_both_have_are_kept(tmp_path: Path) -> None:
    weights = drawn(MAMBA)
    rows = weights["backbone.embedding.weight"]
    torch.save(weights, tmp_path / "official.bin")
    for vocab_size, how in ((13, "13 rows kept, 3 left out"), (8, "8 rows kept, 8 left out")):
        task = mamba(vocab_size)
        report = load_pretrained(task, tmp_path / "official.bin")
        assert torch.equal(task.objective.head.weight, rows[:vocab_size])
        assert report.reshaped[0] == f"embedding.weight (16, 8) -> ({vocab_size}, 8): {how}"
        assert not report.fresh


@pytest.mark.parametrize("tie_embedding", [True, False])
@pytest.mark.parametrize("published", [True, False])
def test_rows_that_a_file_lacks_stay_as_the_run_s_seed_drew_them(
    tie_embedding: bool, published: bool, tmp_path: Path
) -> None:
    weights = drawn(MAMBA)
    weights["lm_head.weight"] = weights["lm_head.weight"] + (0 if tie_embedding else 1)
    torch.save(weights, tmp_path / "file.bin")
    if not published:
        source = mamba(tie_embedding=tie_embedding)
        load_pretrained(source, tmp_path / "file.bin")
        checkpoint_of_nothing_trained(source, tmp_path / "file.bin")
    loaded = []
    for _ in range(2):
        torch.manual_seed(7)
        task = mamba(1019, tie_embedding)
        before = {name: value.clone() for name, value in task.objective.state_dict().items()}
        report = load_pretrained(task, tmp_path / "file.bin")
        loaded.append(task.objective.state_dict())
        assert "embedding.weight (16, 8) -> (1019, 8): 16 rows kept, 1,003 drawn" in str(report)
    for name, key in (("embedding.weight", "backbone.embedding.weight"), ("head.weight", "lm_head.weight")):
        assert torch.equal(loaded[0][name][:16], weights[key])
        assert torch.equal(loaded[0][name][16:], before[name][16:])
        assert torch.equal(loaded[0][name], loaded[1][name])
    assert 0.015 < loaded[0]["embedding.weight"][16:].std() < 0.025
    assert (task.objective.head.weight is task.objective.embedding.weight) == tie_embedding


def test_a_mamba_without_head_or_prefix_is_transformers_model_alone(tmp_path: Path) -> None:
    weights = {key.removeprefix("backbone."): value for key, value in drawn(MAMBA_TRANSFORMERS).items()}
    torch.save(weights, tmp_path / "model.bin")
    task = mamba()
    assert load_pretrained(task, tmp_path / "model.bin").format == "Mamba (transformers)"
    assert torch.equal(task.backbone.norm_f.weight, weights["norm_f.weight"])
    assert torch.equal(task.objective.head.weight, weights["embeddings.weight"])


def test_a_mamba_of_text_serves_images(tmp_path: Path) -> None:
    def on_images(num_classes: int = 16, **sizes: int) -> SemanticSegmentation:
        backbone = SequenceOnImages(Mamba(**{"width": 8, "depth": 1, "d_state": 2, **sizes}), 8, 4)
        return SemanticSegmentation(backbone, num_classes=num_classes, strides=[4, 8])

    torch.save(drawn(MAMBA), tmp_path / "official.bin")
    ours = checkpoint_of_nothing_trained(mamba(), tmp_path / "ours.ckpt")
    for source in (tmp_path / "official.bin", ours):
        task, before = on_images(), on_images()
        before.load_state_dict(task.state_dict())
        report = load_pretrained(task, source)
        assert report.missing == ["pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
        assert set(report.matched) == {f"backbone.{name}" for name in mamba().backbone.state_dict()}
        for name in report.missing:
            assert torch.equal(task.backbone.state_dict()[name], before.backbone.state_dict()[name])
        stored = torch.load(source, weights_only=True)
        key = "backbone.layers.0.mixer.in_proj.weight"
        assert torch.equal(task.backbone.state_dict()[key], stored.get("state_dict", stored)[key])
        with pytest.raises(InputError, match="of another Mamba"):
            load_pretrained(on_images(depth=2), source)
    images = checkpoint_of_nothing_trained(on_images(), tmp_path / "images.ckpt")
    assert load_pretrained(on_images(), images).missing == []
    classes = ImageClassification(on_images().backbone, num_classes=16)
    assert len(load_pretrained(classes, tmp_path / "official.bin").fresh) == len(classes.objective.state_dict())


def checkpoint_of_nothing_trained(task: Task, path: Path) -> Path:
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": task.state_dict()}, path)
    return path


def test_a_vocabulary_head_of_its_own_needs_an_untied_one(tmp_path: Path) -> None:
    weights = drawn(MAMBA)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    torch.save(weights, tmp_path / "untied.bin")
    with pytest.raises(InputError, match="set tie_embedding to false"):
        load_pretrained(mamba(), tmp_path / "untied.bin")
    task = mamba(tie_embedding=False)
    load_pretrained(task, tmp_path / "untied.bin")
    assert torch.equal(task.objective.head.weight, weights["lm_head.weight"])
    export_official(task, tmp_path / "untied.safetensors")
    assert torch.equal(load_file(tmp_path / "untied.safetensors")["lm_head.weight"], weights["lm_head.weight"])

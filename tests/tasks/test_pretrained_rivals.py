"""Published weights of ViT, Swin and ConvNeXt: from torchvision's and timm's networks and in the official spelling."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from mambarium.backbones import ConvNeXt, Swin, VisionBackbone, ViT, from_variant
from mambarium.backbones import load_pretrained as load_backbone
from mambarium.errors import InputError
from mambarium.tasks import ImageClassification, export_official, load_pretrained

pytestmark = pytest.mark.thorough


def vit(image_size: int = 16) -> ViT:
    return ViT(image_size, patch_size=4, width=16, depth=2, num_heads=2)


def swin(window_size: int = 4) -> Swin:
    return Swin(depths=(2, 1), width=8, num_heads=(2, 4), window_size=window_size)


def convnext() -> ConvNeXt:
    return ConvNeXt(depths=(1, 1, 1, 2), widths=(8, 8, 8, 12))


def timm_vit() -> nn.Module:
    models = pytest.importorskip("timm.models.vision_transformer")
    return models.VisionTransformer(16, 4, embed_dim=16, depth=2, num_heads=2, num_classes=5)


def timm_swin() -> nn.Module:
    models = pytest.importorskip("timm.models.swin_transformer")
    sizes = {"embed_dim": 8, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
    return models.SwinTransformer(32, num_classes=5, **sizes)


def timm_convnext() -> nn.Module:
    models = pytest.importorskip("timm.models.convnext")
    return models.ConvNeXt(num_classes=5, depths=(1, 1, 1, 2), dims=(8, 8, 8, 12))


# Ours, theirs, and the format's title.
LIBRARIES: dict[str, tuple[Callable[[], VisionBackbone], Callable[[], nn.Module], str]] = {
    "vit-torchvision": (vit, lambda: VisionTransformer(16, 4, 2, 2, 16, 64, num_classes=5), "ViT (torchvision)"),
    "vit-timm": (vit, timm_vit, "DeiT (facebookresearch/deit, timm)"),
    "swin-torchvision": (
        swin,
        lambda: SwinTransformer([4, 4], 8, [2, 1], [2, 4], [4, 4], num_classes=5),
        "Swin (torchvision)",
    ),
    "swin-timm": (swin, timm_swin, "Swin (timm)"),
    "convnext-torchvision": (
        convnext,
        lambda: TorchvisionConvNeXt(
            [*[CNBlockConfig(8, n, 1) for n in (8, 8, 12)], CNBlockConfig(12, None, 2)], num_classes=5
        ),
        "ConvNeXt (torchvision)",
    ),
    "convnext-timm": (convnext, timm_convnext, "ConvNeXt (timm)"),
}


@pytest.mark.parametrize("name", LIBRARIES)
@torch.no_grad()
def test_logits_equal_the_library_s_for_its_file(name: str, tmp_path: Path) -> None:
    build, build_theirs, title = LIBRARIES[name]
    torch.manual_seed(0)
    theirs = build_theirs().eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save({"model": theirs.state_dict(), "epoch": 299}, tmp_path / "theirs.pth")
    task = ImageClassification(build(), 5).eval()
    report = load_pretrained(task, tmp_path / "theirs.pth")
    assert report.format == title
    assert not (report.unexpected or report.reshaped or report.fresh)
    assert all(key.endswith(".relative_position_index") for key in report.missing)  # which timm does not store
    size = 16 if "vit" in name else 32
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(task(images), theirs(images), rtol=1e-5, atol=1e-5)

    export_official(task, tmp_path / "export.safetensors")
    again = ImageClassification(build(), 5)
    loaded = load_pretrained(again, tmp_path / "export.safetensors")
    assert "(facebookresearch/" in loaded.format or "(microsoft/" in loaded.format
    assert not (loaded.missing or loaded.unexpected or loaded.reshaped or loaded.fresh)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in task.state_dict().items())


# Names, shapes and places in the official files of the small models above, written down by hand.
OFFICIAL: dict[str, tuple[Callable[[], VisionBackbone], dict[str, tuple[tuple[int, ...], str]]]] = {
    "deit": (
        vit,
        {
            "cls_token": ((1, 1, 16), "network.class_token"),
            "pos_embed": ((1, 17, 16), "network.encoder.pos_embedding"),
            "patch_embed.proj.weight": ((16, 3, 4, 4), "network.conv_proj.weight"),
            "blocks.1.norm1.bias": ((16,), "network.encoder.layers.encoder_layer_1.ln_1.bias"),
            "blocks.1.attn.qkv.weight": (
                (48, 16),
                "network.encoder.layers.encoder_layer_1.self_attention.in_proj_weight",
            ),
            "blocks.0.mlp.fc2.weight": ((16, 64), "network.encoder.layers.encoder_layer_0.mlp.3.weight"),
        },
    ),
    "swin": (
        swin,
        {
            "patch_embed.norm.bias": ((8,), "network.features.0.2.bias"),
            "layers.0.blocks.1.attn.relative_position_index": (
                (16, 16),
                "network.features.1.1.attn.relative_position_index",
            ),
            "layers.1.blocks.0.attn.relative_position_bias_table": (
                (49, 4),
                "network.features.3.0.attn.relative_position_bias_table",
            ),
            "layers.0.blocks.1.mlp.fc1.weight": ((32, 8), "network.features.1.1.mlp.0.weight"),
            "layers.0.downsample.reduction.weight": ((16, 32), "network.features.2.reduction.weight"),
            "layers.1.blocks.0.norm2.weight": ((16,), "network.features.3.0.norm2.weight"),
        },
    ),
    "convnext": (
        convnext,
        {
            "downsample_layers.0.0.weight": ((8, 3, 4, 4), "network.features.0.0.weight"),
            "downsample_layers.3.0.weight": ((8,), "network.features.6.0.weight"),
            "downsample_layers.3.1.weight": ((12, 8, 2, 2), "network.features.6.1.weight"),
            "stages.3.1.gamma": ((12,), "network.features.7.1.layer_scale"),
            "stages.0.0.dwconv.weight": ((8, 1, 7, 7), "network.features.1.0.block.0.weight"),
            "stages.3.0.pwconv2.weight": ((12, 48), "network.features.7.0.block.5.weight"),
            "stages.3.0.norm.bias": ((12,), "network.features.7.0.block.2.bias"),
        },
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_have_these_names_and_shapes(name: str, tmp_path: Path) -> None:
    build, places = OFFICIAL[name]
    task = ImageClassification(build(), 5)
    export_official(task, tmp_path / "export.safetensors")
    stored = load_file(tmp_path / "export.safetensors")
    assert {"norm.weight", "norm.bias", "head.weight", "head.bias"} <= stored.keys()
    assert len(stored) == len(task.state_dict())
    state = task.backbone.state_dict()
    for key, (shape, place) in places.items():
        assert tuple(stored[key].shape) == shape, key
        assert torch.equal(stored[key].flatten(), state[place].flatten()), key


def test_masks_of_official_swin_files_are_not_needed(tmp_path: Path) -> None:
    task = ImageClassification(swin(), 5)
    export_official(task, tmp_path / "export.safetensors")
    stored = load_file(tmp_path / "export.safetensors")
    torch.save({"model": stored | {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}}, tmp_path / "official.pth")
    report = load_pretrained(ImageClassification(swin(), 5), tmp_path / "official.pth")
    assert not (report.unexpected or report.missing)


def test_older_files_of_torchvision_s_vit_name_the_mlp_otherwise(tmp_path: Path) -> None:
    weights = VisionTransformer(16, 4, 2, 2, 16, 64, num_classes=5).state_dict()
    older = {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): weights[key] for key in weights}
    assert older.keys() != weights.keys()
    torch.save(older, tmp_path / "older.pth")
    backbone = vit()
    load_backbone(backbone, tmp_path / "older.pth")
    assert torch.equal(
        backbone.state_dict()["network.encoder.layers.encoder_layer_1.mlp.3.weight"],
        weights["encoder.layers.encoder_layer_1.mlp.3.weight"],
    )


def test_vit_for_another_image_size_gets_interpolated_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = VisionTransformer(16, 4, 2, 2, 16, 64, num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    backbone = vit(image_size=24)
    report = load_backbone(backbone, tmp_path / "theirs.pth")
    assert report.reshaped == ["network.encoder.pos_embedding (1, 17, 16) -> (1, 37, 16)"]
    found = backbone.state_dict()["network.encoder.pos_embedding"]
    assert torch.equal(found[:, 0], theirs.encoder.pos_embedding[:, 0])
    assert sorted(report.unexpected) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]


def test_swin_for_another_window_gets_interpolated_biases(tmp_path: Path) -> None:
    stored, backbone = swin(window_size=4), swin(window_size=6)
    table = "network.features.1.0.attn.relative_position_bias_table"
    expected_index = backbone.get_buffer("network.features.1.0.attn.relative_position_index").clone()
    export_official(ImageClassification(stored, 5), tmp_path / "export.safetensors")
    report = load_backbone(backbone, tmp_path / "export.safetensors")
    assert f"{table} (49, 2) -> (121, 2)" in report.reshaped
    assert torch.equal(backbone.get_buffer("network.features.1.0.attn.relative_position_index"), expected_index)
    grid = stored.get_parameter(table).detach().reshape(1, 7, 7, 2).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(11, 11), mode="bicubic", align_corners=False)
    torch.testing.assert_close(backbone.get_parameter(table).detach(), expected.permute(0, 2, 3, 1).reshape(121, 2))
    assert swin().resized(table, torch.zeros(48, 2)) is None


def test_another_variant_is_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        published, backbone = from_variant("convnext_base"), from_variant("convnext_tiny")
    stored = {key: torch.zeros(()).expand(value.shape) for key, value in published.state_dict().items()}
    torch.save({key.removeprefix("network."): value for key, value in stored.items()}, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"it is of the variant convnext_base$"):
        load_backbone(backbone, tmp_path / "theirs.pth")

"""ViT, Swin and ConvNeXt say what torchvision's whole networks say for the same weights."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from mambarium.backbones import ConvNeXt, Swin, VisionBackbone, ViT
from mambarium.errors import InputError

# Ours, torchvision's, and where torchvision has the norm and the head.
PAIRS: dict[str, tuple[Callable[[], VisionBackbone], Callable[[], nn.Module], str, str]] = {
    "vit": (
        lambda: ViT(image_size=16, patch_size=4, width=16, depth=2, num_heads=2),
        lambda: VisionTransformer(16, 4, 2, 2, 16, 64, num_classes=5),
        "encoder.ln",
        "heads.head",
    ),
    "swin": (
        lambda: Swin(depths=(2, 2), width=8, num_heads=(2, 4), window_size=3),
        lambda: SwinTransformer([4, 4], 8, [2, 2], [2, 4], [3, 3], num_classes=5),
        "norm",
        "head",
    ),
    "convnext": (
        lambda: ConvNeXt(depths=(1, 2), widths=(8, 12)),
        lambda: TorchvisionConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 2)], num_classes=5),
        "classifier.0",
        "classifier.2",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_logits_equal_torchvisions_for_its_weights(name: str) -> None:
    build, build_theirs, norm, head = PAIRS[name]
    torch.manual_seed(0)
    theirs = build_theirs().eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    backbone = build().eval()
    classifier = backbone.classifier(5).eval()
    published = theirs.state_dict()
    tail = {part: published.pop(f"{key}.{part.split('.')[1]}") for part, key in places_of_tail(norm, head).items()}
    backbone.get_submodule("network").load_state_dict(published)
    classifier.load_state_dict(tail)

    images = torch.randn(2, 3, 16, 16)
    expected: Tensor = theirs(images)
    torch.testing.assert_close(classifier(backbone(images)), expected, rtol=1e-5, atol=1e-5)


def places_of_tail(norm: str, head: str) -> dict[str, str]:
    return {"norm.weight": norm, "norm.bias": norm, "head.weight": head, "head.bias": head}


def test_the_last_block_is_dropped_most_often() -> None:
    backbone = ViT(width=16, depth=3, num_heads=2, drop_path=0.5).train()
    blocks = backbone.get_submodule("network.encoder.layers")
    rates = [(block.get_submodule("dropout").rate, block.get_submodule("mlp.4").rate) for block in blocks.children()]
    assert rates == [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5)]
    tokens = torch.zeros(400, 2, 16)
    last = blocks.get_submodule("encoder_layer_2")
    nn.init.ones_(last.get_submodule("mlp.3").bias)
    kept = last(tokens)[:, 0, 0]
    assert set(kept.tolist()) == {0.0, 2.0} and 140 < (kept > 0).sum() < 260


def test_without_torchvision_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models.swin_transformer", None)
    with pytest.raises(InputError, match="Swin is torchvision's: pip install torchvision"):
        Swin()

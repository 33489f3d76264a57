"""MambaOut against timm's, with the same weights in one process."""

from pathlib import Path

import pytest
import torch

from mambarium.backbones import from_variant
from mambarium.tasks import ImageClassification, load_pretrained

timm = pytest.importorskip("timm")


def test_mambaout_equals_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("mambaout_femto", pretrained=False, num_classes=10).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    ours = ImageClassification(from_variant("mambaout_femto"), num_classes=10).eval()
    report = load_pretrained(ours, tmp_path / "timm.pth")
    assert not report.missing and not report.unexpected
    images = torch.randn(2, 3, 96, 64)
    expected = theirs(images)
    found = ours(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for logits in (found, expected):
        logits.square().sum().backward()
    gradient = ours.backbone.downsample_layers[0].conv1.weight.grad
    assert (gradient - theirs.stem.conv1.weight.grad).norm() <= 1e-5 * gradient.norm()

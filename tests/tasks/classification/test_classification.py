"""Image classification: exact metrics, published sizes, mixing."""

import pytest
import torch
from torch.nn import functional as F

from mambarium.backbones import Mamba, MambaOut, Vim, from_variant
from mambarium.errors import InputError
from mambarium.tasks import ImageClassification
from mambarium.tasks.classification.classification_task import ClassificationMetrics
from mambarium.tasks.classification.mixing import ImageMixing


@pytest.mark.parametrize(("name", "parameters"), [("vim_tiny", 7_148_008), ("mambaout_femto", 7_304_536)])
def test_published_sizes_on_the_meta_device(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = ImageClassification(backbone=from_variant(name), num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    "backbone", [Vim(image_size=8, patch_size=2, width=16, depth=1), MambaOut(depths=(1, 1), widths=(16, 24))]
)
def test_calling_returns_logits_and_predicting_probabilities(backbone: torch.nn.Module) -> None:
    model = ImageClassification(backbone, num_classes=7).eval()
    images = torch.randn(3, 3, 8, 8)
    assert model(images).shape == (3, 7)
    probabilities = model.predict_step({"image": images, "label": torch.zeros(3)})
    assert torch.allclose(probabilities.sum(1), torch.ones(3))


def test_metrics_over_ragged_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    metrics = ClassificationMetrics(num_classes=8)
    all_logits, all_labels = [], []
    for size in (5, 3, 1):
        logits = torch.randn(size, 8, generator=generator)
        labels = torch.randint(8, (size,), generator=generator)
        metrics.update(logits, {"image": logits, "label": labels})
        all_logits.append(logits)
        all_labels.append(labels)
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    rank = (logits > logits.gather(1, labels[:, None])).sum(1)
    values = metrics.compute()
    assert values["accuracy"].item() == pytest.approx((rank == 0).float().mean().item())
    assert values["top5_accuracy"].item() == pytest.approx((rank < 5).float().mean().item())
    assert values["loss"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_five_classes_have_no_top5_accuracy() -> None:
    metrics = ClassificationMetrics(num_classes=5)
    metrics.update(torch.eye(5), {"image": torch.eye(5), "label": torch.arange(5)})
    assert set(metrics.compute()) == {"accuracy", "loss"}


def test_a_sequence_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="Mamba is not a vision backbone"):
        ImageClassification(Mamba(width=8, depth=1), num_classes=3)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_keeps_pixels_and_label_shares_in_step(mixup: float, cutmix: float) -> None:
    torch.manual_seed(0)
    labels = torch.arange(6)
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, 32, 32).clone()
    mixing = ImageMixing(6, mixup, cutmix)
    for _ in range(10):
        mixed, shares = mixing(images, labels)
        assert torch.allclose(shares.sum(1), torch.ones(6))
        # Image k has value k everywhere, so the mean of a mixed image is the mean of its label shares.
        expected = (shares * labels.float()).sum(1)
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-4)


def test_no_mixing_returns_class_numbers() -> None:
    images, labels = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    mixed, same = ImageMixing(2, 0.0, 0.0)(images, labels)
    assert mixed is images and same is labels


def test_label_smoothing_reaches_the_loss() -> None:
    torch.manual_seed(0)
    model = ImageClassification(MambaOut(depths=(1,), widths=(16,)), num_classes=4, label_smoothing=0.2).eval()
    batch = {"image": torch.randn(3, 3, 8, 8), "label": torch.tensor([0, 1, 2])}
    expected = F.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.2)
    assert torch.equal(model.training_losses(batch)["cross_entropy"], expected)


@pytest.mark.parametrize(
    ("name", "value"), [("label_smoothing", -0.1), ("label_smoothing", 1.0), ("mixup", -0.5), ("cutmix", -1.0)]
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{name} is {value}: give ") as caught:
        ImageClassification(MambaOut(depths=(1,), widths=(16,)), num_classes=4, **{name: value})
    assert "\n" not in str(caught.value)

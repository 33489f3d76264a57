"""Image classification: exact metrics, published sizes, mixing."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
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


def test_metrics_of_two_processes_add_up() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 8), torch.randint(8, (9,))
    whole, first, second = (ClassificationMetrics(num_classes=8) for _ in range(3))
    for metrics, rows in ((whole, slice(None)), (first, slice(4)), (second, slice(4, None))):
        metrics.update(logits[rows], {"image": logits[rows], "label": labels[rows]})
    first.merge_state(second)
    assert {name: value.item() for name, value in first.compute().items()} == pytest.approx(
        {name: value.item() for name, value in whole.compute().items()}
    )


def test_five_classes_have_no_top5_accuracy() -> None:
    metrics = ClassificationMetrics(num_classes=5)
    metrics.update(torch.eye(5), {"image": torch.eye(5), "label": torch.arange(5)})
    assert set(metrics.compute()) == {"accuracy", "loss"}


def test_a_sequence_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="Mamba is not a vision backbone"):
        ImageClassification(Mamba(width=8, depth=1), num_classes=3)


def mixed_batches(mixup: float, cutmix: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Twenty times six mixed images, their label shares, and the six images: each is mixed with the one before it.

    Every pixel of image k holds 10 ** k, its row plus k, and its column plus 2k.
    """
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.arange(20.0), torch.arange(32.0), indexing="ij")
    images = torch.stack([torch.stack([torch.full_like(row, 10.0**k), row + k, column + 2 * k]) for k in range(6)])
    mixing = ImageMixing(6, mixup, cutmix)
    for _ in range(20):
        mixed, shares = mixing(images, torch.arange(6))
        yield mixed, shares, images


def test_cutmix_pastes_a_rectangle_whose_area_is_the_other_label_s_share() -> None:
    areas = set()
    for mixed, shares, images in mixed_batches(0.0, 1.0):
        for own in range(6):
            other = (own - 1) % 6
            pasted = (mixed[own] == images[other]).all(dim=0)
            assert torch.equal(mixed[own], torch.where(pasted, images[other], images[own]))
            rows, columns = pasted.any(dim=1), pasted.any(dim=0)
            assert torch.equal(pasted, rows[:, None] & columns[None, :])
            for side in (rows, columns):
                assert side.int().diff().abs().sum() <= 2 - int(side[0]) - int(side[-1])  # without a gap
            expected = torch.zeros(6)
            expected[other] = pasted.float().mean()
            expected[own] = 1 - expected[other]
            torch.testing.assert_close(shares[own], expected)
            areas.add(int(pasted.sum()))
    assert len(areas) > 10 and max(areas) > 300


def test_mixup_weighs_images_as_their_labels() -> None:
    weights = set()
    for mixed, shares, images in mixed_batches(0.8, 0.0):
        for own in range(6):
            other = (own - 1) % 6
            weight = shares[own, own]
            expected = torch.zeros(6)
            expected[own], expected[other] = weight, 1 - weight
            torch.testing.assert_close(shares[own], expected)
            torch.testing.assert_close(mixed[own], weight * images[own] + (1 - weight) * images[other])
            weights.add(round(weight.item(), 6))
    assert len(weights) > 10 and min(weights) < 0.4 and max(weights) > 0.6


def test_one_of_mixup_and_cutmix_for_each_batch() -> None:
    kinds = set()
    for mixed, _, images in mixed_batches(0.8, 1.0):
        own_pixels, others = mixed == images, mixed == images.roll(1, 0)
        kinds.add("cutmix" if (own_pixels | others).all() else "mixup")
    assert kinds == {"mixup", "cutmix"}


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
    with pytest.raises(InputError, match=f"^{name} is {value}; give ") as caught:
        ImageClassification(MambaOut(depths=(1,), widths=(16,)), num_classes=4, **{name: value})
    assert "\n" not in str(caught.value)

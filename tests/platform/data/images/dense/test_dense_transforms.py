"""Sizes, crops and combinations: pure functions of (seed, pass, index) that keep boxes, masks and pixels together."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data import (
    CopyPaste,
    DigitSceneDetection,
    DigitSceneSegmentation,
    LargeScaleJitter,
    Mosaic,
    ResizeShortSide,
    WindowCrop,
)
from mambarium.platform.data.images.detection.detection_samples import DetectionSample, boxes_of_masks, detection_sample
from mambarium.platform.data.images.segmentation.segmentation_samples import segmentation_sample
from mambarium.tasks.batches import IGNORED_CLASS


def plain(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor)


def sample(height: int, width: int) -> DetectionSample:
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 2:9, 3:11] = masks[1, 10:20, 5:9] = True
    image = torch.arange(height * width).remainder(256).to(torch.uint8).view(1, height, width).expand(3, -1, -1)
    return detection_sample(image.contiguous(), boxes_of_masks(masks), torch.tensor([0, 1]), 7, masks=masks)


@pytest.mark.parametrize(
    ("short_side", "long_side", "size"), [(48, None, (48, 72)), (48, 60, (40, 60)), (16, 1000, (16, 24))]
)
def test_shorter_side(short_side: int, long_side: int | None, size: tuple[int, int]) -> None:
    resized: DetectionSample = ResizeShortSide([short_side], long_side)(sample(24, 36))
    assert resized["image"].shape[1:] == resized["masks"].shape[1:] == size
    assert torch.allclose(plain(resized["boxes"]), plain(sample(24, 36)["boxes"]) * size[1] / 36)
    assert resized["area"].tolist() == sample(24, 36)["area"].tolist() and resized["original_size"] == (24, 36)
    sizes = {ResizeShortSide([20, 30, 40])(sample(24, 24))["image"].shape[1] for _ in range(30)}
    assert sizes == {20, 30, 40}


def test_large_scale_jitter_fits_the_box() -> None:
    torch.manual_seed(0)
    jitter = LargeScaleJitter(50, 60, (0.5, 2.0))
    sizes = [tuple(jitter(sample(24, 36))["image"].shape[1:]) for _ in range(40)]
    assert all(1.4 < width / height < 1.6 for height, width in sizes)
    assert 30 <= min(width for _, width in sizes) < 50 and 100 < max(width for _, width in sizes) <= 120


def test_window() -> None:
    torch.manual_seed(0)
    cropped = WindowCrop(10, 100)(sample(24, 36))
    assert cropped["image"].shape == (3, 10, 36)
    whole = plain(sample(24, 36)["image"])
    (top,) = [row for row in range(15) if torch.equal(plain(cropped["image"]), whole[:, row : row + 10])]
    assert torch.equal(plain(cropped["masks"]), plain(sample(24, 36)["masks"])[:, top : top + 10])
    sizes = {tuple(WindowCrop(12, 14, smallest=11)(sample(24, 36))["image"].shape[1:]) for _ in range(40)}
    assert sizes == {(height, width) for height in (11, 12) for width in (11, 12, 13, 14)}


def test_window_with_several_classes() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(8, 100, dtype=torch.uint8)
    mask[:, :10], mask[:, 60:] = 1, IGNORED_CLASS
    image = torch.zeros(3, 8, 100, dtype=torch.uint8)
    shares = []
    for _ in range(40):
        cropped = WindowCrop(8, 12, max_class_share=0.75)(segmentation_sample(image, mask, 0))["mask"]
        counts = plain(cropped).flatten().bincount(minlength=2)[:2]
        shares.append(float(counts.max() / counts.sum().clamp(min=1)))
    assert sum(share <= 0.75 for share in shares) > 20  # 17 of 100 windows have both classes, ten are tried


def digits(*transforms: Transform, seed: int = 0) -> Callable[[int, int], DetectionSample]:
    samples = DigitSceneDetection(train_transforms=list(transforms), seed=seed).training_samples()
    return lambda pass_index, index: samples[(pass_index, index)]


def check_objects(found: DetectionSample) -> None:
    """Boxes lie in the image, around their masks, and masks don't overlap."""
    height, width = found["image"].shape[1:]
    boxes, masks = plain(found["boxes"]), plain(found["masks"])
    assert masks.shape == (len(boxes), height, width) and masks.any(dim=(1, 2)).all()
    assert len(found["labels"]) == len(found["crowd"]) == len(found["area"]) == len(boxes)
    assert ((boxes >= 0) & (boxes <= torch.tensor([width, height, width, height]))).all()
    tight = boxes_of_masks(masks)
    assert (tight[:, :2] >= boxes[:, :2] - 1).all() and (tight[:, 2:] <= boxes[:, 2:] + 1).all()
    assert masks.sum(dim=0).max() <= 1


def test_mosaic() -> None:
    combined = digits(Mosaic(48))
    most = 0
    for index in range(4):
        found = combined(0, index)
        most = max(most, len(found["labels"]))
        assert found["image"].shape == (3, 96, 96)
        check_objects(found)
        brightest = plain(found["image"]).amax(dim=0)[plain(found["masks"]).any(dim=0)]
        assert brightest.float().mean() > 110  # masks lie on ink
    assert most > 4
    assert digits(Mosaic(24, probability=0.0))(0, 1)["image"].shape == (3, 24, 24)


def test_copy_paste() -> None:
    combined, alone = digits(CopyPaste(1.0)), digits()
    grown = shrunk = 0
    for index in range(12):
        found, before = combined(0, index), alone(0, index)
        check_objects(found)
        changed = (plain(found["image"]) != plain(before["image"])).any(dim=0)
        new = plain(found["masks"])[-1] if len(found["labels"]) > len(before["labels"]) else None
        grown += new is not None
        shrunk += bool(plain(found["masks"])[: len(before["labels"])].sum() < plain(before["masks"]).sum())
        assert not changed[~plain(found["masks"]).any(dim=0)].any()
    assert grown > 5 and shrunk > 0
    assert torch.equal(digits(CopyPaste(0.0))(0, 3)["image"], alone(0, 3)["image"])


def test_copy_paste_of_different_sizes() -> None:
    for first, second in [((24, 36), (40, 20)), ((40, 20), (24, 36)), ((8, 8), (24, 24))]:
        torch.manual_seed(1)
        found = CopyPaste(1.0).combine(sample(*first), lambda second=second: sample(*second))
        assert found["image"].shape[1:] == first and found["masks"].shape[1:] == first


def test_combinations_depend_on_seed_pass_and_index_alone() -> None:
    transforms = [Mosaic(48), LargeScaleJitter(48, 48, (0.8, 1.2)), WindowCrop(48, 48), CopyPaste(1.0)]
    chain = [*transforms, v2.RandomHorizontalFlip()]
    first = digits(*chain)(2, 5)
    torch.manual_seed(123)
    again = digits(*chain)
    assert torch.equal(first["image"], again(2, 5)["image"]) and torch.equal(first["boxes"], again(2, 5)["boxes"])
    others = [again(2, 6), again(3, 5), digits(*chain, seed=1)(2, 5)]
    assert not any(torch.equal(first["image"], other["image"]) for other in others)


def test_what_transforms_refuse() -> None:
    with pytest.raises(InputError, match=r"Mosaic combines images with boxes"):
        DigitSceneSegmentation(train_transforms=[Mosaic(48)]).training_samples()[(0, 0)]
    no_masks = sample(24, 36)
    del no_masks["masks"]
    with pytest.raises(InputError, match=r"set data\.masks to true"):
        CopyPaste(1.0).combine(no_masks, lambda: no_masks)
    for wrong in (
        lambda: ResizeShortSide([]),
        lambda: LargeScaleJitter(10, 10, (2.0, 1.0)),
        lambda: WindowCrop(5, 5, smallest=6),
        lambda: Mosaic(1),
        lambda: CopyPaste(1.5),
    ):
        with pytest.raises(InputError):
            wrong()

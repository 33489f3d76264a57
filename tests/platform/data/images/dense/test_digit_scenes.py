"""Scenes of digits: pure, split before pasting, true to their masks."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2

from mambarium.errors import InputError
from mambarium.platform.data import DigitSceneDetection, DigitSceneSegmentation
from mambarium.platform.data.images.dense.digit_scenes import BACKGROUND_BRIGHTNESS, of_part
from mambarium.platform.data.images.detection.detection_samples import boxes_of_masks
from mambarium.tasks.batches import IGNORED_CLASS


def test_a_scene_depends_on_seed_pass_and_index_alone() -> None:
    first = DigitSceneDetection(seed=3).training_samples()[(1, 5)]["image"]
    torch.manual_seed(7)
    again = DigitSceneDetection(seed=3).training_samples()
    _ = again[(0, 0)]
    assert torch.equal(first, again[(1, 5)]["image"])
    others = [again[(2, 5)], again[(1, 6)], DigitSceneDetection(seed=4).training_samples()[(1, 5)]]
    assert not any(torch.equal(first, other["image"]) for other in others)
    evaluation = [DigitSceneDetection(seed=seed).validation_samples()[(0, 5)]["image"] for seed in (3, 4)]
    assert torch.equal(*evaluation)
    assert not torch.equal(evaluation[0], DigitSceneDetection().test_samples()[(0, 5)]["image"])


def test_no_digit_is_seen_in_two_splits() -> None:
    chosen = np.stack([of_part(load_digits().target, part) for part in ("train", "val", "test")])
    assert (chosen.sum(axis=0) == 1).all() and chosen.shape == (3, 1797)
    assert chosen.sum(axis=1).min() > 170


def test_boxes_masks_and_classes_agree() -> None:
    detection, segmentation = DigitSceneDetection(image_size=64), DigitSceneSegmentation(image_size=64)
    count = 0
    for index in range(20):
        objects = detection.training_samples()[(1, index)]
        classes = segmentation.training_samples()[(1, index)]
        assert torch.equal(objects["image"], classes["image"]) and objects["image"].shape == (3, 64, 64)
        masks = objects["masks"].as_subclass(Tensor)
        assert masks.sum(dim=0).max() == 1
        assert torch.equal(objects["area"], masks.sum(dim=(1, 2)).float())
        expected = (masks * (objects["labels"] + 1)[:, None, None]).sum(dim=0)
        assert torch.equal(classes["mask"].long(), expected)
        for mask, (x1, y1, x2, y2) in zip(masks, objects["boxes"].int().tolist(), strict=True):
            inside = mask[y1:y2, x1:x2]
            assert mask.sum() == inside.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        background = objects["image"][:, expected == 0].float().quantile(0.5)
        assert background <= 255 * BACKGROUND_BRIGHTNESS[1]
        count += len(masks)
    assert 30 <= count <= 80


def test_batches() -> None:
    (batch, *_) = DigitSceneDetection(batch_size=3, image_size=50, size_multiple=16).val_dataloader()
    assert batch["image"].shape == (3, 3, 64, 64) and batch["image"].dtype == torch.float32
    assert not batch["image"][:, :, 50:].any() and not batch["image"][:, :, :, 50:].any()
    assert batch["valid_size"].tolist() == batch["original_size"].tolist() == [[50, 50]] * 3
    assert batch["image_id"].tolist() == [0, 1, 2]
    for boxes, labels, crowd, area, masks in zip(
        *(batch[name] for name in ("boxes", "labels", "crowd", "area", "masks")), strict=True
    ):
        assert boxes.shape == (len(labels), 4) and masks.shape == (len(labels), 64, 64) and masks.dtype == torch.bool
        assert labels.dtype == torch.int64 and not crowd.any() and len(area) == len(labels)
        assert torch.equal(boxes_of_masks(masks), boxes)
    (batch, *_) = DigitSceneSegmentation(batch_size=3, image_size=50, size_multiple=16).val_dataloader()
    assert batch["mask"].shape == (3, 64, 64) and batch["mask"].dtype == torch.int64
    assert (batch["mask"][:, 50:] == IGNORED_CLASS).all() and (batch["mask"][:, :, 50:] == IGNORED_CLASS).all()
    assert [mask.shape for mask in batch["original_mask"]] == [(50, 50)] * 3
    assert torch.equal(batch["mask"][0, :50, :50], batch["original_mask"][0])
    samples = DigitSceneSegmentation().training_samples()
    assert DigitSceneSegmentation().collate([samples[(0, 0)], samples[(0, 1)]])["original_mask"] == []


def test_transforms_move_boxes_and_masks_with_the_image() -> None:
    plain = DigitSceneDetection().training_samples()[(0, 3)]
    flipped = DigitSceneDetection(train_transforms=[v2.RandomHorizontalFlip(1.0)]).training_samples()[(0, 3)]
    assert torch.equal(flipped["image"].flip(2), plain["image"])
    assert torch.equal(boxes_of_masks(flipped["masks"].as_subclass(Tensor)), flipped["boxes"].as_subclass(Tensor))
    cropped = DigitSceneDetection(train_transforms=[v2.CenterCrop(12)]).training_samples()
    samples = [cropped[(0, index)] for index in range(30)]
    assert any(len(sample["labels"]) == 0 for sample in samples)
    for sample in samples:
        boxes = sample["boxes"].as_subclass(Tensor)
        assert len(boxes) == len(sample["labels"]) == len(sample["masks"]) == len(sample["area"])
        assert ((boxes >= 0) & (boxes <= 12)).all() and (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    batch = DigitSceneDetection().collate(samples)
    assert len(batch["masks"]) == len(batch["boxes"]) == 30


def test_numbers_out_of_range() -> None:
    with pytest.raises(InputError, match=r"data\.image_size"):
        DigitSceneDetection(image_size=8)
    with pytest.raises(InputError, match=r"data\.num_scenes"):
        DigitSceneSegmentation(num_scenes=0)
    with pytest.raises(InputError, match=r"data\.size_multiple"):
        DigitSceneSegmentation(size_multiple=0)

"""Detectors on every backbone's features: losses, gradients, coordinates, limits."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import (
    ConvNeXt,
    LocalVim,
    LocalVMamba,
    Mamba,
    MambaOut,
    MambaVision,
    MambaYOLO,
    SequenceOnImages,
    Swin,
    Vim,
    VisionBackbone,
    ViT,
    VMamba,
    from_variant,
)
from mambarium.errors import InputError
from mambarium.tasks import FCOS, YOLO, CascadeMaskRCNN, FasterRCNN, MaskRCNN, ObjectDetection, RetinaNet
from mambarium.tasks.batches import DetectionBatch, PaddedImages
from mambarium.tasks.dense.maps import FeatureMaps
from mambarium.tasks.dense.pyramid import FeaturePyramid
from mambarium.tasks.detection.anchors import GridAnchors, center_boxes
from mambarium.tasks.detection.detector import Limits, select_detections
from mambarium.tasks.detection.fcos import match_cells
from mambarium.tasks.detection.mask_encoding import paste_mask
from mambarium.tasks.detection.regions import BoxSettings, MaskSettings, ProposalSettings, RegionPooling
from mambarium.tasks.detection.task_alignment import assign
from mambarium.tasks.detection.yolo import distribution_loss

SMALL_PROPOSALS = ProposalSettings(anchor_sizes=(8, 16, 32), candidates=(50, 20), kept=(20, 10), samples_per_image=32)
SMALL_BOXES = BoxSettings(width=32, samples_per_image=16, pooled_size=3, score_threshold=0.0, detections_per_image=7)
SMALL_MASKS = MaskSettings(pooled_size=4, num_convs=1, channels=16)
STRIDES = (4, 8, 16)

DETECTORS = {
    "fcos": partial(FCOS, strides=STRIDES, channels=32, num_convs=1, score_threshold=0.0, detections_per_image=7),
    "retinanet": partial(
        RetinaNet,
        strides=STRIDES,
        channels=32,
        anchor_sizes=(8, 16, 32),
        score_threshold=0.0,
        candidates_per_level=20,
        detections_per_image=7,
    ),
    "yolo": partial(YOLO, strides=(4, 8), channels=(16, 32), score_threshold=0.0, detections_per_image=7),
    "mamba_yolo": partial(
        YOLO,
        strides=(4, 8),
        channels=(16, 32),
        depth=2,
        state_space_neck=True,
        score_threshold=0.0,
        detections_per_image=7,
    ),
    "faster_rcnn": partial(FasterRCNN, strides=STRIDES, channels=32, proposals=SMALL_PROPOSALS, boxes=SMALL_BOXES),
    "mask_rcnn": partial(
        MaskRCNN, strides=STRIDES, channels=32, proposals=SMALL_PROPOSALS, boxes=SMALL_BOXES, masks=SMALL_MASKS
    ),
    "cascade_mask_rcnn": partial(
        CascadeMaskRCNN, strides=STRIDES, channels=32, proposals=SMALL_PROPOSALS, boxes=SMALL_BOXES, masks=SMALL_MASKS
    ),
    "cascade_mask_rcnn_as_mambavision": partial(
        CascadeMaskRCNN,
        strides=STRIDES,
        channels=32,
        box_loss="giou",
        proposals=SMALL_PROPOSALS,
        boxes=replace(SMALL_BOXES, num_convs=1, norm="batch"),
        masks=SMALL_MASKS,
    ),
}

BACKBONES: dict[str, Callable[[], VisionBackbone]] = {
    "vim": lambda: Vim(image_size=32, patch_size=8, width=16, depth=1, d_state=2),
    "vim_overlapping_patches": lambda: Vim(image_size=32, patch_size=8, stride=4, width=16, depth=1, d_state=2),
    "vmamba": lambda: VMamba(depths=(1, 1), widths=(8, 16)),
    "vmamba_v0": lambda: VMamba("v0", depths=(1, 1), widths=(8, 16), d_state=2, ssm_ratio=2.0, mlp_ratio=0.0),
    "mambavision": lambda: MambaVision(depths=(1, 1, 1), width=8, num_heads=(2, 4), window_sizes=(3, 2), d_state=4),
    "mambaout": lambda: MambaOut(depths=(1, 1), widths=(8, 16)),
    "mambaout_with_ssm": lambda: MambaOut(depths=(1, 1), widths=(8, 16), ssm=True, d_state=2),
    "local_vim": lambda: LocalVim(32, 8, 16, (("rows", "window_2"),), d_state=2),
    "local_vmamba": lambda: LocalVMamba((1, 1), (8, 16), (("rows", "window_2"), ("columns", "window_2")), 2, 2),
    "mamba_yolo": lambda: MambaYOLO(depths=(1, 1), widths=(8, 16), d_state=2),
    "vit": lambda: ViT(image_size=32, patch_size=8, width=16, depth=1, num_heads=2),
    "swin": lambda: Swin(depths=(2, 1), width=8, num_heads=(2, 4), window_size=3),
    "convnext": lambda: ConvNeXt(depths=(1, 1), widths=(8, 16), layer_scale=0.5),
    "mamba_on_images": lambda: SequenceOnImages(Mamba(16, 1, d_state=2), 32, 8),
}


def small_backbone() -> VisionBackbone:
    return MambaOut(depths=(1, 1), widths=(16, 24))


def scenes() -> DetectionBatch:
    """Two images of different sizes, the second without anything but a crowd."""
    image = torch.randn(2, 3, 40, 44, generator=torch.Generator().manual_seed(0))
    image[1, :, 24:] = 0
    masks = torch.zeros(2, 40, 44, dtype=torch.bool)
    masks[0, 4:20, 4:16] = True
    masks[1, 20:36, 20:40] = True
    return DetectionBatch(
        image=image,
        valid_size=torch.tensor([[40, 44], [24, 44]]),
        original_size=torch.tensor([[80, 44], [24, 88]]),
        image_id=torch.tensor([7, 9]),
        boxes=[torch.tensor([[4.0, 4, 16, 20], [20, 20, 40, 36]]), torch.tensor([[2.0, 2, 10, 10]])],
        labels=[torch.tensor([0, 2]), torch.tensor([1])],
        crowd=[torch.tensor([False, False]), torch.tensor([True])],
        area=[torch.tensor([384.0, 640.0]), torch.tensor([128.0])],
        masks=[masks, torch.zeros(1, 40, 44, dtype=torch.bool)],
    )


def one_step(model: ObjectDetection, batch: DetectionBatch) -> dict[str, Tensor]:
    losses = model.train().training_losses(batch)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []
    return losses


@torch.no_grad()
def check_evaluation(model: ObjectDetection, batch: DetectionBatch) -> None:
    model.eval()
    found = model.predictions(batch)
    assert len(found) == 2
    for detections, (height, width) in zip(found, batch["original_size"].tolist(), strict=True):
        assert 0 < len(detections.boxes) <= 7
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert ((detections.labels >= 0) & (detections.labels < 3)).all()
        assert (detections.scores.diff() <= 0).all()
    model.val_metrics.update(found, batch)
    values = model.val_metrics.compute()
    assert 0 <= values[model.primary_metric.name] <= 1


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_trains_and_evaluates(name: str) -> None:
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=DETECTORS[name])
    batch = scenes()
    one_step(model, batch)
    check_evaluation(model, batch)
    assert model.objective.detector.predicts_masks == ("mask_AP" in model.val_metrics.compute())


# Cells of the three levels (strides 4, 8 and 16) that show a part of one of the images of 40 x 44 and 24 x 44 pixels.
SHOWN = (10 * 11 + 6 * 11, 5 * 6 + 3 * 6, 3 * 3 + 2 * 3)
FOCAL = 0.75 * 0.01**2 * -math.log(0.99)  # (1 - alpha) p^2 (-log(1 - p)) at the score 0.01 with which heads start
REGIONS = {"proposal_objectness": math.log(2), "proposal_boxes": 0.0}  # of two and of four equal scores
STAGES = {f"classification_{stage}": weight * math.log(4) for stage, weight in ((1, 1.0), (2, 0.5), (3, 0.25))}
CASCADE = REGIONS | STAGES | {"boxes_1": 0.0, "boxes_2": 0.0, "boxes_3": 0.0, "masks": 0.0}
YOLO_CLASSES = sum(
    0.5 * 3 * cells * math.log1p(5 / (3 * (640 / stride) ** 2)) for cells, stride in zip(SHOWN, (4, 8), strict=False)
)
LOSSES_WITHOUT_OBJECTS = {
    "fcos": {"classification": 3 * sum(SHOWN) * FOCAL, "boxes": 0.0, "centredness": 0.0},
    "retinanet": {"classification": 9 * 3 * sum(SHOWN) * FOCAL / 2, "boxes": 0.0},  # the mean of the images
    "yolo": {"classification": YOLO_CLASSES, "boxes": 0.0, "distributions": 0.0},
    "mamba_yolo": {"classification": YOLO_CLASSES, "boxes": 0.0, "distributions": 0.0},
    "faster_rcnn": REGIONS | {"classification": math.log(4), "boxes": 0.0},
    "mask_rcnn": REGIONS | {"classification": math.log(4), "boxes": 0.0, "masks": 0.0},
    "cascade_mask_rcnn": CASCADE,
    "cascade_mask_rcnn_as_mambavision": CASCADE,
}


@pytest.mark.parametrize("name", DETECTORS)
def test_images_without_objects_teach_that_there_is_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=DETECTORS[name])
    batch = scenes()
    batch["boxes"] = [torch.zeros(0, 4)] * 2
    batch["labels"] = [torch.zeros(0, dtype=torch.int64)] * 2
    batch["crowd"] = [torch.zeros(0, dtype=torch.bool)] * 2
    batch["masks"] = [torch.zeros(0, 40, 44, dtype=torch.bool)] * 2
    for parameter_name, parameter in model.named_parameters():
        last = ("cls_logits.weight", "classes.weight")
        if parameter_name.endswith(last) or re.search(r"class_branches\.\d\.2\.weight$", parameter_name):
            nn.init.zeros_(parameter)  # all scores are those of the biases
    losses = one_step(model, batch)
    found = {term: loss.item() for term, loss in losses.items()}
    # Binary cross-entropy of logits around -10 has few digits in float32.
    assert found == pytest.approx(LOSSES_WITHOUT_OBJECTS[name], rel=3e-3 if "yolo" in name else 1e-5)
    boxes = [parameter for each, parameter in model.named_parameters() if "bbox_reg" in each or "corrections" in each]
    assert all((parameter.grad == 0).all() for parameter in boxes)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_trains_and_evaluates(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    finest = min(4, backbone.feature_info[0].stride)
    detector = partial(DETECTORS["fcos"], strides=(finest, 2 * finest, 4 * finest))
    model = ObjectDetection(backbone, 3, detector=detector)
    batch = scenes()
    one_step(model, batch)
    check_evaluation(model, batch)


def test_mamba_yolo_has_the_official_size() -> None:
    """6,131,704 parameters, 16 of which are constants in ours, and the scales and shifts of a norm per map of ours."""
    with torch.device("meta"):
        backbone = from_variant("mamba_yolo_tiny")
        assert isinstance(backbone, VisionBackbone)
        model = ObjectDetection(backbone, 80, detector=partial(YOLO, state_space_neck=True))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 6_131_704 - 16 + 2 * (64 + 128 + 256)


def test_bfloat16_autocast_keeps_boxes_exact() -> None:
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=DETECTORS["mask_rcnn"])
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.training_losses(scenes())
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        found = model.eval().predictions(scenes())
    assert all(each.boxes.dtype == each.scores.dtype == torch.float32 for each in found)


def test_boxes_learn_by_overlap() -> None:
    """Ten times 1 minus the generalised overlap, over all sampled boxes."""
    detector = DETECTORS["cascade_mask_rcnn_as_mambavision"](small_backbone().feature_info, 3)
    targets = [{"boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0]]), "labels": torch.tensor([1])}]
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 8.0], [20.0, 20.0, 24.0, 24.0]])]
    matched = [(torch.zeros(3, dtype=torch.int64), torch.tensor([1, 1, 0]))]
    logits, corrections = torch.zeros(3, 4), torch.zeros(3, 4)
    _, loss = detector._stage_losses(0, logits, corrections, boxes, matched, targets)
    torch.testing.assert_close(loss, torch.tensor(10 * (0 + 0.5) / 3), rtol=1e-4, atol=1e-4)


def test_fcos_learns_one_image_by_heart() -> None:
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=partial(FCOS, strides=STRIDES, channels=32, num_convs=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    batch = scenes()
    for _ in range(25):
        optimizer.zero_grad()
        sum(model.training_losses(batch).values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        model.val_metrics.update(model.predictions(batch), batch)
    assert model.val_metrics.compute()["AP50"] > 0.9


def test_nothing_is_found_in_the_padding() -> None:
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=partial(DETECTORS["fcos"], detections_per_image=1000)).eval()
    batch = scenes()
    batch["original_size"] = batch["valid_size"]
    with torch.no_grad():
        sure = [each.boxes[each.scores > 1e-6] for each in model.predictions(batch)]
    assert sure[0][:, 3].max() > 24 >= sure[1][:, 3].max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["fcos", "mask_rcnn"])
def test_detections_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=DETECTORS[name]).eval()
    batch = scenes()
    alone = PaddedImages(
        image=batch["image"][1:, :, :24],
        valid_size=batch["valid_size"][1:],
        original_size=batch["original_size"][1:],
        image_id=batch["image_id"][1:],
    )
    batch["image"][1, :, 24:] = 3.0  # padding is not looked at
    found, (expected,) = model.predictions(batch)[1], model.predictions(alone)
    assert len(expected.boxes)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other)


def test_anchors_in_the_padding_learn_nothing() -> None:
    """An object at the lower edge of its image that anchors beyond the edge fit as well as those within."""
    torch.manual_seed(0)
    model = ObjectDetection(small_backbone(), 3, detector=DETECTORS["retinanet"])
    batch = scenes()
    batch["boxes"][1], batch["crowd"][1] = torch.tensor([[4.0, 22.0, 12.0, 24.0]]), torch.tensor([False])
    losses = model.training_losses(batch)
    assert losses["classification"] < 2  # a positive with the padding's fixed logit of -50 has a loss of 12.5


def test_the_padding_of_a_batch_is_zero_in_the_maps() -> None:
    backbone = small_backbone()
    maps = FeatureMaps(backbone.feature_info)
    features = backbone(torch.randn(2, 3, 32, 32))
    for found, stride in zip(maps(features, (32, 32), torch.tensor([[32, 32], [9, 16]])), (4, 8), strict=True):
        assert (found[0] != 0).any(dim=0).all()
        rows, columns = -(-9 // stride), 16 // stride
        assert (found[1, :, :rows, :columns] != 0).any(dim=0).all()
        assert (found[1, :, rows:] == 0).all() and (found[1, :, :, columns:] == 0).all()


@pytest.mark.parametrize("extra_levels", ["convolution", "pool"])
@pytest.mark.parametrize("name", ["vim", "mambaout", "vim_overlapping_patches"])
def test_levels_have_the_promised_sizes(name: str, extra_levels: Literal["convolution", "pool"]) -> None:
    backbone = BACKBONES[name]()
    pyramid = FeaturePyramid(backbone.feature_info, (4, 8, 16, 32), 32, extra_levels)
    levels = pyramid(backbone(torch.randn(1, 3, 40, 56)), (40, 56))
    assert [level.shape[1:] for level in levels] == [(32, 10, 14), (32, 5, 7), (32, 3, 4), (32, 2, 2)]


def test_cells_learn_the_smallest_object_around_their_centre() -> None:
    cells = center_boxes((16, 16), (4, 8), torch.device("cpu"))
    assert cells[0].tolist() == [0, 0, 4, 4] and cells[-1].tolist() == [8, 8, 16, 16]
    boxes = torch.tensor([[0.0, 0.0, 15.0, 15.0], [5.0, 5.0, 11.0, 11.0]])
    match = match_cells(cells, (16, 4), boxes, center_radius=1.5)
    assert match[:16].reshape(4, 4).tolist() == [[0, 0, 0, -1], [0, 1, 1, -1], [0, 1, 1, -1], [-1, -1, -1, -1]]
    assert (match[16:] == -1).all()  # both objects are too small for the second level
    assert (match_cells(cells, (16, 4), boxes[:0], 1.5) == -1).all()


def test_cells_are_given_to_the_object_they_fit_best() -> None:
    centers = torch.tensor([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0], [30.0, 30.0]])
    boxes = torch.tensor([[0.0, 0.0, 12.0, 4.0], [5.0, 1.0, 7.0, 3.0]])
    found = torch.tensor([[0.0, 0.0, 12.0, 4.0], [5.0, 1.0, 7.0, 3.0], [0.0, 0.0, 12.0, 2.0], [0.0, 0.0, 12.0, 4.0]])
    scores = torch.tensor([[0.5, 0.1], [0.5, 0.1], [0.5, 0.1], [0.9, 0.9]])
    owners, targets = assign(centers, scores, found, boxes, torch.tensor([0, 1]), cells_per_object=2)
    assert owners.tolist() == [0, 1, 0, -1]
    torch.testing.assert_close(targets, torch.tensor([1.0, 1.0, 0.5**6, 0.0]))
    owners, targets = assign(centers, scores, found, boxes[:0], torch.zeros(0, dtype=torch.int64), 2)
    assert (owners == -1).all() and (targets == 0).all()


def test_distances_are_learnt_as_the_two_bins_beside_them() -> None:
    shares = torch.tensor([1e-9, 0.75, 0.25, 1e-9])
    bins = shares.log().expand(1, 4, 4)
    best = distribution_loss(bins, torch.full((1, 4), 1.25))
    torch.testing.assert_close(best, torch.tensor([-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]))
    assert distribution_loss(bins, torch.full((1, 4), 1.5)) > best


def test_anchors_stand_at_true_strides_whatever_the_padding() -> None:
    from torchvision.models.detection.image_list import ImageList

    anchors = GridAnchors((4, 8), [(8,), (16,)], (1.0,))
    levels = [torch.zeros(1, 8, 9, 5), torch.zeros(1, 8, 5, 3)]
    (found,) = anchors(ImageList(levels[0], [(33, 20)]), levels)
    assert found[0].tolist() == [-4, -4, 4, 4]
    assert found[44].tolist() == [12, 28, 20, 36]
    assert found[-1].tolist() == [8, 24, 24, 40]


def test_regions_are_pooled_from_the_level_of_their_size_at_exact_places() -> None:
    levels = {}
    for index, stride in enumerate((4, 8)):
        row, column = torch.meshgrid(*[(torch.arange(64 // stride) + 0.5) * stride] * 2, indexing="ij")
        levels[str(index)] = torch.stack([column, row, torch.full_like(row, stride)])[None]
    boxes = torch.tensor([[10.0, 20.0, 22.0, 28.0], [12.0, 8.0, 52.0, 48.0]])
    pooled = RegionPooling((4, 8), 2, canonical_size=64)(levels, [boxes])
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([13.0, 19.0]))
    torch.testing.assert_close(pooled[0, 1, :, 0], torch.tensor([22.0, 26.0]))
    assert pooled[0, 2].unique().tolist() == [4.0] and pooled[1, 2].unique().tolist() == [8.0]
    torch.testing.assert_close(pooled[1, 0, 0], torch.tensor([22.0, 42.0]))


def test_regions_far_from_the_corner_keep_their_place_in_half_precision() -> None:
    level = torch.randn(1, 2, 256, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    boxes = torch.tensor([[701.3, 905.7, 730.2, 941.1]])
    pooling = RegionPooling((4,), 3, canonical_size=224)
    found = pooling({"0": level}, [boxes])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, pooling({"0": level.float()}, [boxes]).bfloat16())


def test_of_overlapping_detections_the_surest_of_each_class_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 10, 10], [20.0, 20, 50, 50], [60.0, 60, 70, 70]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.7], [0.6, 0.1], [0.9, 0.9]])
    found = select_detections(scores, boxes, [3, 1], (40, 30), Limits(0.3, 0.5, 10, 100))
    assert found.boxes.tolist() == [[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 40]]
    assert found.labels.tolist() == [0, 1, 0]
    limited = select_detections(scores, boxes, [3, 1], (40, 30), Limits(0.3, 0.5, 2, 1))
    assert limited.boxes.tolist() == [[0, 0, 10, 10]]


def test_masks_are_pasted_where_the_box_is() -> None:
    mask = torch.zeros(4, 4)
    mask[:2] = 1.0
    pasted = paste_mask(mask, torch.tensor([-2.0, 4.0, 6.0, 12.0]), (10, 8))
    expected = torch.zeros(10, 8, dtype=torch.bool)
    expected[4:8, :6] = True
    # Towards the box's edge the probability falls to that outside, zero: at half a cell it is still one half.
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ObjectDetection(Mamba(width=8, depth=1), 3), "Mamba is not a vision backbone"),
        (lambda: ObjectDetection(small_backbone(), 3, class_names=["a"]), "class_names has 1 entries for 3 classes"),
        (lambda: ObjectDetection(small_backbone(), 3, detector=partial(FCOS, channels=40)), "multiple of 32"),
        (lambda: ObjectDetection(small_backbone(), 3, detector=partial(FCOS, strides=(8, 32))), "the double"),
        (lambda: ObjectDetection(small_backbone(), 3, detector=partial(FCOS, strides=(2, 4, 8))), r"none of \[2\]"),
        (lambda: ObjectDetection(small_backbone(), 3, detector=partial(FCOS, strides=(4,))), "would not be trained"),
        (lambda: ObjectDetection(small_backbone(), 3, detector=partial(RetinaNet, strides=(4, 8))), "5 anchor sizes"),
        (lambda: CascadeMaskRCNN(small_backbone().feature_info, 3, positive_ious=(0.5,)), "has three stages"),
        (lambda: CascadeMaskRCNN(small_backbone().feature_info, 3, stage_weights=(1.0,)), "has three stages"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_masks_are_wanted_from_the_data_if_the_detector_learns_them() -> None:
    model = ObjectDetection(small_backbone(), 3, detector=DETECTORS["mask_rcnn"])
    batch = scenes()
    batch["masks"] = None
    with pytest.raises(InputError, match="the data has no instance masks"):
        model.training_losses(batch)

"""The YOLO detector's assignment and losses beside an example worked out number by number."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import MambaOut
from mambarium.backbones.contract import VisionFeatures
from mambarium.tasks import YOLO
from mambarium.tasks.detection.detector import ImageSizes, Objects
from mambarium.tasks.detection.task_alignment import assign
from mambarium.tasks.detection.yolo import distribution_loss

Box = tuple[float, float, float, float]


class Cell(NamedTuple):
    """What a cell predicts: scores of two classes, and shares of bins 0 to 3 for the four sides."""

    center: tuple[float, float]
    stride: float
    scores: tuple[float, float]
    shares: tuple[tuple[float, ...], ...]  # left, top, right, bottom


HALF = (0.6, 0.35, 0.03, 0.02)  # mean 0.47
ONE = (0.2, 0.65, 0.1, 0.05)  # mean 1
MORE = (0.1, 0.4, 0.4, 0.1)  # mean 1.5
# An image of 8 x 8 pixels: four cells of stride 4, one of stride 8.
CELLS = (
    Cell((2, 2), 4, (0.7, 0.2), (HALF, HALF, MORE, HALF)),
    Cell((6, 2), 4, (0.4, 0.3), (MORE, HALF, HALF, HALF)),
    Cell((2, 6), 4, (0.1, 0.5), (HALF, ONE, ONE, HALF)),
    Cell((6, 6), 4, (0.25, 0.8), (ONE, MORE, HALF, HALF)),
    Cell((4, 4), 8, (0.35, 0.6), (HALF, HALF, HALF, HALF)),
)
BOXES: tuple[Box, Box] = ((0, 0, 8, 4), (1.25, 1, 7, 7))
LABELS = (0, 1)


def predicted(cell: Cell) -> Box:
    left, top, right, bottom = (
        cell.stride * sum(number * share for number, share in enumerate(shares)) for shares in cell.shares
    )
    return cell.center[0] - left, cell.center[1] - top, cell.center[0] + right, cell.center[1] + bottom


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def complete_iou_loss(a: Box, b: Box) -> float:
    """Zheng et al. 2020, arXiv 1911.08287, equations 7 to 11."""
    overlap = iou(a, b)
    between = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    angles = math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))
    shape = 4 / math.pi**2 * angles**2
    return 1 - overlap + between / diagonal + shape * shape / (1 - overlap + shape)


def by_hand(cells_per_object: int) -> tuple[list[int], list[float]]:
    """Owner (-1 for none) and target score of each cell."""
    wanted: dict[int, list[int]] = {}
    fits = {}
    for number, (box, label) in enumerate(zip(BOXES, LABELS, strict=True)):
        for index, cell in enumerate(CELLS):
            if box[0] < cell.center[0] < box[2] and box[1] < cell.center[1] < box[3]:
                fits[number, index] = math.sqrt(cell.scores[label]) * iou(box, predicted(cell)) ** 6
        inside = sorted((index for n, index in fits if n == number), key=lambda index: -fits[number, index])
        for index in inside[:cells_per_object]:
            wanted.setdefault(index, []).append(number)
    owners = [-1] * len(CELLS)
    for index, numbers in wanted.items():
        owners[index] = max(numbers, key=lambda number: iou(BOXES[number], predicted(CELLS[index])))
    targets = [0.0] * len(CELLS)
    for number, box in enumerate(BOXES):
        own = [index for index, owner in enumerate(owners) if owner == number]
        best_fit = max(fits[number, index] for index in own)
        best_overlap = max(iou(box, predicted(CELLS[index])) for index in own)
        for index in own:
            targets[index] = fits[number, index] / best_fit * best_overlap
    return owners, targets


def tensors() -> tuple[Tensor, Tensor]:
    """Class logits (1, cells, classes) and bins (1, cells, 4, bins) of the example."""
    scores = torch.tensor([cell.scores for cell in CELLS])
    return scores.logit()[None], torch.tensor([cell.shares for cell in CELLS]).log()[None]


def test_cells_on_each_side_of_a_box_are_without() -> None:
    centers = torch.tensor([[4.0, 4.0], [1.0, 4.0], [7.0, 4.0], [4.0, 1.0], [4.0, 7.0]])
    box = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
    owners, _ = assign(centers, torch.full((5, 1), 0.5), box.expand(5, 4), box, torch.tensor([0]), 5)
    assert owners.tolist() == [0, -1, -1, -1, -1]


@pytest.mark.parametrize("cells_per_object", [1, 2, 10])
def test_the_assignment_of_the_example(cells_per_object: int) -> None:
    centers = torch.tensor([cell.center for cell in CELLS], dtype=torch.float32)
    found = torch.tensor([predicted(cell) for cell in CELLS])
    scores = torch.tensor([cell.scores for cell in CELLS])
    boxes, labels = torch.tensor(BOXES, dtype=torch.float32), torch.tensor(LABELS)
    owners, targets = assign(centers, scores, found, boxes, labels, cells_per_object)
    expected_owners, expected_targets = by_hand(cells_per_object)
    assert owners.tolist() == expected_owners
    assert targets.tolist() == pytest.approx(expected_targets, rel=1e-5)


def test_the_first_figures_of_the_example() -> None:
    """The arithmetic above against figures from paper and pencil."""
    # Cell 0: distances 1.88, 1.88, 6, 1.88 from (2, 2). Within box 0 it has 7.88 * 3.76 = 29.6288 of 32 pixels.
    assert predicted(CELLS[0]) == pytest.approx((0.12, 0.12, 8.0, 3.88))
    assert iou(BOXES[0], predicted(CELLS[0])) == pytest.approx(29.6288 / 32)
    # Cell 4: 3.76 around (4, 4), a square of 7.52 * 7.52 = 56.5504 pixels around box 1's 34.5: 0.61007.
    assert iou(BOXES[1], predicted(CELLS[4])) == pytest.approx(34.5 / 56.5504)
    owners, targets = by_hand(2)
    # Box 0 takes the upper two cells, which are mirror images: the one of less score aims at sqrt(0.4 / 0.7) as much.
    assert owners == [0, 0, -1, 1, 1]
    assert targets[:2] == pytest.approx([0.9259, 0.9259 * 0.755929])
    assert targets[4] == pytest.approx(0.61007, abs=1e-5)


def example_detector(logits: Tensor, bins: Tensor, weights: tuple[float, float, float]) -> YOLO:
    """A detector whose network has the given outputs."""
    info = MambaOut((1, 1), (16, 24)).feature_info
    detector = YOLO(info, 2, (4, 8), (16, 32), bins=4, cells_per_object=2, weights=weights)
    detector._outputs = lambda features, sizes: (logits, bins)
    return detector


NO_FEATURES = VisionFeatures([], None, {})


@pytest.mark.parametrize("weights", [(0.5, 7.5, 1.5), (1.0, 2.0, 3.0)])
def test_the_losses_of_the_example(weights: tuple[float, float, float]) -> None:
    owners, targets = by_hand(2)
    total = sum(targets)
    assert total > 1
    classes, boxes, bins = 0.0, 0.0, 0.0
    for cell, owner, target in zip(CELLS, owners, targets, strict=True):
        for label, score in enumerate(cell.scores):
            aim = target if owner >= 0 and LABELS[owner] == label else 0.0
            classes -= aim * math.log(score) + (1 - aim) * math.log(1 - score)
        if owner < 0:
            continue
        box = BOXES[owner]
        boxes += target * complete_iou_loss(predicted(cell), box)
        (x, y), stride = cell.center, cell.stride
        distances = ((x - box[0]) / stride, (y - box[1]) / stride, (box[2] - x) / stride, (box[3] - y) / stride)
        for distance, shares in zip(distances, cell.shares, strict=True):
            lower = math.floor(distance)
            bins -= target / 4 * (lower + 1 - distance) * math.log(shares[lower])
            bins -= target / 4 * (distance - lower) * math.log(shares[lower + 1])
    sizes = ImageSizes((8, 8), torch.tensor([[8, 8]]))
    objects = Objects(torch.tensor(BOXES, dtype=torch.float32), torch.tensor(LABELS), None)
    losses = example_detector(*tensors(), weights).losses(NO_FEATURES, sizes, [objects])
    found = {name: loss.item() for name, loss in losses.items()}
    expected = {
        "classification": weights[0] * classes / total,
        "boxes": weights[1] * boxes / total,
        "distributions": weights[2] * bins / total,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_second_image_shares_the_sum_of_target_scores() -> None:
    """Losses are sums over the batch divided by all its target scores: the same image twice changes nothing."""
    logits, bins = tensors()
    objects = Objects(torch.tensor(BOXES, dtype=torch.float32), torch.tensor(LABELS), None)
    once, twice = (
        example_detector(logits.repeat(count, 1, 1), bins.repeat(count, 1, 1, 1), (0.5, 7.5, 1.5)).losses(
            NO_FEATURES, ImageSizes((8, 8), torch.tensor([[8, 8]] * count)), [objects] * count
        )
        for count in (1, 2)
    )
    for name, loss in once.items():
        torch.testing.assert_close(twice[name], loss)


def test_the_defaults_are_the_published_ones() -> None:
    """YOLOv8's gains of classes, boxes and distributions; 16 bins, 10 cells of an object, its limits, its norms."""
    detector = YOLO(MambaOut((1, 1), (16, 24)).feature_info, 2, (4, 8), (16, 32))
    assert detector.weights == (0.5, 7.5, 1.5)
    assert (detector.bins, detector.cells_per_object) == (16, 10)
    assert (detector.limits.score_threshold, detector.limits.nms_threshold) == (0.001, 0.7)
    assert detector.limits.detections_per_image == detector.detections_per_image == 300
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_distances_beyond_the_bins_are_learnt_as_the_nearest() -> None:
    """Three bins reach from 0 to 2 strides, at their end with a hundredth of the one before."""
    shares = torch.tensor([0.2, 0.3, 0.5]).log().expand(1, 4, 3)
    below = distribution_loss(shares, torch.full((1, 4), -0.5))
    assert below.item() == pytest.approx(-math.log(0.2))
    beyond = distribution_loss(shares, torch.full((1, 4), 7.0))
    assert beyond.item() == pytest.approx(-(0.01 * math.log(0.3) + 0.99 * math.log(0.5)), rel=1e-5)


def test_the_detections_of_the_example() -> None:
    detector = example_detector(*tensors(), (0.5, 7.5, 1.5)).eval()
    (found,) = detector.detect(NO_FEATURES, ImageSizes((8, 8), torch.tensor([[8, 8]])))
    clipped = [tuple(min(max(value, 0.0), 8.0) for value in predicted(cell)) for cell in CELLS]
    kept: list[tuple[float, int, Box]] = []
    for score, label, box in sorted(
        (
            (score, label, box)
            for cell, box in zip(CELLS, clipped, strict=True)
            for label, score in enumerate(cell.scores)
        ),
        reverse=True,
    ):
        if all(label != other or iou(box, surer) <= 0.7 for _, other, surer in kept):
            kept.append((score, label, box))
    assert 4 <= len(kept) < 10
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in kept])
    assert found.labels.tolist() == [label for _, label, _ in kept]
    torch.testing.assert_close(found.boxes, torch.tensor([box for _, _, box in kept]))

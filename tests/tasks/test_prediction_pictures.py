"""Truth and prediction in one picture."""

import pytest
import torch

from mambarium.tasks.classification.class_predictions import RIGHT, WRONG, class_below_truth, draw_classified
from mambarium.tasks.detection.detection_predictions import detections_beside_truth, draw_objects
from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.drawing import LINE_HEIGHT, class_color
from mambarium.tasks.segmentation.mask_predictions import classes_beside_truth, draw_classes

NAMES = ["a", "b", "c"]
BLACK = torch.zeros(3, 24, 24, dtype=torch.uint8)


def colors(picture: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(color) for color in picture.flatten(1).T.tolist()}


def test_a_right_class_is_green_and_a_wrong_one_red() -> None:
    for label, color in ((1, RIGHT), (0, WRONG)):
        picture = class_below_truth(draw_classified(BLACK, "ab"[label]), label, torch.tensor([0.0, 3.0]), ["a", "b"])
        assert picture.shape == (3, 240 + 2 * LINE_HEIGHT, 240) and not picture[:, :240].any()
        red, green, blue = picture[:, 240 + LINE_HEIGHT :].float().sum(dim=(1, 2)).tolist()  # of the line's letters
        assert (green > 2 * red) == (color == RIGHT) and (red > 2 * green) == (color == WRONG)
        assert blue == pytest.approx(min(red, green), rel=0.05)


def test_detections_stand_in_the_right_half_where_they_were_found() -> None:
    boxes, label = torch.tensor([[6.0, 4, 12, 10]]), torch.tensor([1])
    found = Detections(torch.tensor([[24.0, 24, 44, 44], [0, 0, 9, 9]]), torch.tensor([0.9, 0.1]), torch.tensor([0, 1]))
    crowd = torch.zeros(1, dtype=torch.bool)
    true_boxes = draw_objects(BLACK, boxes, label, crowd, None, ["a", "b"])
    picture = detections_beside_truth(true_boxes, BLACK, (48, 48), found, ["a", "b"])
    truth, predicted = picture[:, 4:244, 4:244], picture[:, 4:244, 248:488]
    assert truth[:, 100, 90].tolist() == list(class_color(1))  # the lower edge
    assert predicted[:, 120, 180].tolist() == list(class_color(0))  # the upper edge, at half the original's size
    assert class_color(1) not in colors(predicted)  # too unsure to be shown


def test_class_maps_of_the_original_size_are_fitted_to_the_sample() -> None:
    mask = torch.ones(24, 24, dtype=torch.uint8)
    predicted = torch.cat([torch.full((24, 48), 1), torch.full((24, 48), 2)]).to(torch.uint8)
    picture = classes_beside_truth(draw_classes(BLACK, mask, NAMES), BLACK, predicted, NAMES)
    left, right = picture[:, 4:244, 4:244], picture[:, 4:244, 248:488]
    assert len(colors(left)) == 1
    assert torch.equal(right[:, :120], left[:, :120]) and not torch.equal(right[:, 120:], left[:, 120:])

"""Polygons and run lengths, against values of the official tools and against geometry."""

import numpy as np
import pytest
import torch

from mambarium.platform.data.coco_masks import decode_segmentation, shows_nothing


def test_run_lengths_run_down_the_columns() -> None:
    mask = decode_segmentation({"size": [3, 4], "counts": [2, 2, 3, 4, 1]}, 3, 4)
    assert mask.int().tolist() == [[0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]]


def text_of(counts: list[int]) -> str:
    """COCO's text form, written from its description."""
    text = ""
    for position, count in enumerate(counts):
        value = count - counts[position - 2] if position > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | (0x20 if more else 0)) + 48)
    return text


def test_text_form() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 400, (31,), generator=generator).tolist()
    height, width = 1, sum(counts)
    plain = decode_segmentation({"size": [height, width], "counts": counts}, height, width)
    packed = decode_segmentation({"size": [height, width], "counts": text_of(counts)}, height, width)
    assert torch.equal(plain, packed) and plain.sum() == sum(counts[1::2])


def test_rectangles_are_exact() -> None:
    mask = decode_segmentation([[2, 1, 7, 1, 7, 4, 2, 4]], 6, 9)
    expected = torch.zeros(6, 9, dtype=torch.bool)
    expected[1:4, 2:7] = True
    assert torch.equal(mask, expected)
    over_the_border = decode_segmentation([[-3, -2, 20, -2, 20, 30, -3, 30]], 6, 9)
    assert over_the_border.all()


def test_polygons_are_their_inside() -> None:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :80]
    for _ in range(20):
        corners = random.uniform((5, 5), (75, 55), (3, 2))
        x, y = columns + 0.5, rows + 0.5
        sides = []
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
            sides.append(((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)) / np.hypot(x2 - x1, y2 - y1))
        distance = np.maximum(np.min(sides, axis=0), np.min([-side for side in sides], axis=0))
        mask = decode_segmentation([corners.flatten().tolist()], 60, 80).numpy()
        assert mask[distance > 0.8].all() and not mask[distance < -0.8].any()
    union = decode_segmentation([[0, 0, 3, 0, 3, 3, 0, 3], [2, 2, 5, 2, 5, 5, 2, 5]], 6, 6)
    assert union.sum() == 9 + 9 - 1


@pytest.mark.parametrize(
    ("segmentation", "empty"),
    [
        ([[-9, 1, 0, 1, 0, 5], [9, 0, 12, 0, 12, 6]], True),
        ([[1, -9, 1, 0, 5, 0], [0, 6, 9, 6, 9, 12]], True),
        ([[-9, 1, 0, 1, 0, 5], [2, 1, 7, 1, 7, 4, 2, 4]], False),
        ([[-3, -2, 20, -2, 20, 30, -3, 30]], False),
        ({"size": [6, 9], "counts": [54]}, True),
        ({"size": [6, 9], "counts": [20, 0, 34]}, True),
        ({"size": [6, 9], "counts": text_of([20, 0, 34])}, True),
        ({"size": [6, 9], "counts": text_of([20, 4, 30])}, False),
        ({"size": [6, 9], "counts": [0, 54]}, False),
    ],
)
def test_empty_masks_are_seen_without_pixels(segmentation: object, empty: bool) -> None:
    assert shows_nothing(segmentation, 6, 9) == (not decode_segmentation(segmentation, 6, 9).any()) == empty


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "polygon of 4 numbers"),
        ({"size": [4, 4], "counts": [16]}, "4 x 4"),
        ({"size": [3, 4], "counts": [5, 4]}, "9 pixels"),
        ("text", "neither"),
        ([1, 2, 3, 4, 5, 6], "polygon 1, not a list"),
        ([[1, 2, 3, 4, 5, None]], "something else than finite numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "something else than finite numbers"),
        ({"size": 3, "counts": [12]}, "size is 3"),
        ({"size": [3, 4], "counts": [None]}, "no list of whole numbers"),
        ({"size": [3, 4], "counts": [10**30]}, "a run length below 0 or above the 12 pixels"),
        ({"size": [3, 4], "counts": "oooooooooooooooooooo0"}, "a run length below 0 or above the 12 pixels"),
        ({"size": [3, 4], "counts": [6, -1, 7]}, "a run length below 0"),
        ([[0, 0, 401, 0, 4, 3]], "a corner more than 100 times the image's longer side away"),
        ([[0, 0, 1e13, 0, 1e13, 1e13]], "a corner more than 100 times"),
        ([[0, 0, 1e300, 0, 1e300, 1e300]], "a corner more than 100 times"),
        ([[0, 0, 10**400, 0, 4, 3]], "a corner more than 100 times"),
    ],
)
def test_what_does_not_fit(segmentation: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_segmentation(segmentation, 3, 4)

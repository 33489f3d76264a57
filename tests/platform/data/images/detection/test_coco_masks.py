"""Polygons and run lengths, against values of the official tools and against geometry."""

import json

import numpy as np
import pytest
import torch

from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.detection.coco_masks import (
    NO_POLYGONS,
    Runs,
    Segmentation,
    decode_segmentation,
    encode_plain,
    encode_segmentation,
    shows_nothing,
    stored_segmentation,
)


def test_run_lengths_run_down_the_columns() -> None:
    mask = decode_segmentation(Runs((3, 4), [2, 2, 3, 4, 1]), 3, 4)
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
    plain = decode_segmentation(Runs((height, width), counts), height, width)
    packed = decode_segmentation(Runs((height, width), text_of(counts)), height, width)
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
        (Runs((6, 9), [54]), True),
        (Runs((6, 9), [20, 0, 34]), True),
        (Runs((6, 9), text_of([20, 0, 34])), True),
        (Runs((6, 9), text_of([20, 4, 30])), False),
        (Runs((6, 9), [0, 54]), False),
    ],
)
def test_empty_masks_are_seen_without_pixels(segmentation: Segmentation, empty: bool) -> None:
    assert shows_nothing(segmentation, 6, 9) == (not decode_segmentation(segmentation, 6, 9).any()) == empty


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "polygon of 4 numbers"),
        (Runs((4, 4), [16]), "4 x 4"),
        (Runs((3, 4), [5, 4]), "9 pixels"),
        (Runs((3, 4), [10**30]), "a run length below 0 or above the 12 pixels"),
        (Runs((3, 4), "oooooooooooooooooooo0"), "a run length below 0 or above the 12 pixels"),
        (Runs((3, 4), [6, -1, 7]), "a run length below 0"),
        ([[0, 0, 401, 0, 4, 3]], "a corner more than 100 times the image's longer side away"),
        ([[0, 0, 1e13, 0, 1e13, 1e13]], "a corner more than 100 times"),
        ([[0, 0, 1e300, 0, 1e300, 1e300]], "a corner more than 100 times"),
    ],
)
def test_what_does_not_fit(segmentation: Segmentation, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_segmentation(segmentation, 3, 4)


TRIANGLE = [[2.0, 1.0, 7.0, 1.0, 7.0, 4.0]]


@pytest.mark.parametrize(
    ("segmentation", "read"),
    [
        ([[2, 1, 7, 1, 7, 4]], TRIANGLE),
        ([2, 1, 7, 1, 7, 4], TRIANGLE),
        ([[2, 1], [7, 1], [7, 4]], TRIANGLE),
        ([[[2, 1], [7, 1], [7, 4]]], TRIANGLE),
        ([["2", "1", "7.0", "1", "7", "4"]], TRIANGLE),
        ([[2, 1, 7, 1, 7, 4], [3, 3, 4, 4], []], TRIANGLE),
        ([[[2, 1], [7, 1], [7, 4]], [[3, 3]]], TRIANGLE),
        ([], []),
        ([[]], []),
        (None, []),
        ([[1, 2, 3, 4]], []),
        ({"size": [3, 4], "counts": [6, 6]}, Runs((3, 4), [6, 6])),
        ({"size": ["3", "4"], "counts": ["6", 6.0]}, Runs((3, 4), [6, 6])),
        ({"size": [3, 4], "counts": "d0X1", "more": 1}, Runs((3, 4), "d0X1")),
        ({"size": [3, 4], "counts": [10**30]}, Runs((3, 4), [10**30])),
    ],
)
def test_forms_of_segmentations(segmentation: object, read: Segmentation) -> None:
    for encoded in (
        encode_segmentation(segmentation, "file", "place"),
        encode_plain(json.dumps(segmentation).encode(), "file", "place"),
    ):
        assert stored_segmentation(encoded) == read
        assert (encoded == NO_POLYGONS) == (read == [])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("text", r"file: place: expected `array`, got `str`; found 'text'"),
        ([[1, 2, 3, 4, 5, None]], r"file: place\[0\]\[5\]: expected `float`, got `null`; found None"),
        ([[1, 2, 3, 4, 5, float("nan")]], r"file: place\[0\]\[5\]: expected `float` .*; found nan"),
        (
            [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]],
            r"file: place\[1\]: found 7 numbers, expected x, y, x, y",
        ),
        ({"size": 3, "counts": [12]}, r"file: place\.size: expected `array`, got `int`; found 3"),
        ({"size": [3, 4], "counts": [None]}, r"file: place\.counts\[0\]: expected `int`, got `null`; found None"),
        ({"size": [3, 4]}, r"file: place: object missing required field `counts`; found \{'size'"),
        ([[0, 0, 10**400, 0, 4, 3]], r"file: place\[0\]\[2\]: number out of range; found 10+"),
    ],
)
def test_what_is_no_segmentation(segmentation: object, message: str) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        encode_segmentation(segmentation, "file", "place")
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(SampleError, match=r"^file: place: not JSON \(Invalid UTF-8"):
        encode_plain(b'{"size": [3, 4], "counts": "\xff"}', "file", "place")

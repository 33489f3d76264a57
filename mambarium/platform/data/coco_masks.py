"""Masks of COCO's annotation files: polygons and run lengths, turned into pixels as the official tools do."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UPSAMPLING = 5
"""The official tools draw a polygon's outline on a grid finer by this factor."""

LONGEST = 2**22
"""Steps of a polygon's outline on that grid, which are all in memory at once."""

FARTHEST = 100
"""How many times the image's longer side a corner may be away, as the outline is drawn point by point."""


def decode_segmentation(segmentation: Any, height: int, width: int) -> Tensor:
    """Turns the segmentation of an annotation into pixels.

    Args:
        segmentation: Polygons (lists of x, y, x, y, ...), whose union counts, or run lengths (a mapping of "size" and
            "counts", the counts as numbers or in COCO's text form).
        height: Height of the image.
        width: Width of the image.

    Returns:
        Boolean (height, width).

    Raises:
        ValueError: If it is neither, holds something else than numbers, a polygon's corner is too far away, or run
            lengths don't fit the image.
    """
    if isinstance(segmentation, list):
        mask = np.zeros(height * width, dtype=bool)
        for polygon in segmentation:
            mask |= _polygon_pixels(polygon, height, width)
    elif isinstance(segmentation, dict) and {"size", "counts"} <= set(segmentation):
        size = segmentation["size"]
        if not isinstance(size, list | tuple) or len(size) != 2:
            raise ValueError(f"a mask whose size is {size!r}, not height and width")
        if list(size) != [height, width]:
            raise ValueError(f"a mask of {size[1]} x {size[0]} pixels on an image of {width} x {height}")
        mask = _run_pixels(segmentation["counts"], height * width)
    else:
        raise ValueError("a segmentation that is neither polygons nor run lengths")
    return torch.from_numpy(mask.reshape(width, height).T.copy())  # pixels run down the columns


def encode_segmentation(segmentation: Any) -> bytes:
    """A segmentation in little memory, without polygons of less than three corners; `json.loads` gives it back."""
    if isinstance(segmentation, list):
        segmentation = [part for part in segmentation if not isinstance(part, list) or len(part) >= 6]
    return json.dumps(segmentation, separators=(",", ":")).encode()


NO_POLYGONS = encode_segmentation([])


def shows_nothing(segmentation: Any, height: int, width: int) -> bool:
    """Whether a mask is empty, as far as that is seen without turning it into pixels.

    Args:
        segmentation: As in `decode_segmentation`, which alone checks it.
        height: Height of the image.
        width: Width of the image.

    Returns:
        Whether all polygons lie outside the image, or no run is inside the object.
    """
    if isinstance(segmentation, list):
        return all(_is_outside(polygon, height, width) for polygon in segmentation)
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, str | list):
        return False
    return not any(islice(_numbers_of_text(counts) if isinstance(counts, str) else counts, 1, None, 2))


def _is_outside(polygon: Any, height: int, width: int) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or not set(map(type, polygon)) <= {int, float}:
        return False
    x, y = polygon[0::2], polygon[1::2]
    return max(x) <= 0 or max(y) <= 0 or min(x) >= width or min(y) >= height


def _run_pixels(counts: Sequence[int] | str, num_pixels: int) -> NDArray[np.bool_]:
    """Pixels of run lengths, which alternate between outside and inside and begin outside."""
    if not isinstance(counts, str) and not (
        isinstance(counts, list | tuple) and all(isinstance(count, int) for count in counts)
    ):
        raise ValueError("run lengths that are no list of whole numbers and no text")
    lengths = list(_numbers_of_text(counts) if isinstance(counts, str) else counts)
    if not all(0 <= length <= num_pixels for length in lengths):
        raise ValueError(f"a run length below 0 or above the {num_pixels} pixels of the image")
    if sum(lengths) != num_pixels:
        raise ValueError(f"run lengths of {sum(lengths)} pixels for an image of {num_pixels}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _numbers_of_text(text: str) -> Iterator[int]:
    """Run lengths in COCO's text form: five bits per character, low ones first, from the third on as differences."""
    numbers: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last character of a number
            if bits & 0x10:  # its sign
                value -= 1 << shift
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            yield numbers[-1]
            value, shift = 0, 0


def _polygon_pixels(polygon: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels, down the columns, of a polygon.

    Where the outline, drawn on a finer grid, crosses the middle of a column of pixels, inside turns to outside.
    """
    if not isinstance(polygon, list | tuple):
        raise ValueError(f"a polygon {polygon!r}, not a list of x, y, x, y, ...: give a list of such lists")
    if not all(isinstance(number, int | float) and abs(number) < math.inf for number in polygon):
        raise ValueError("a polygon with something else than finite numbers")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon of {len(polygon)} numbers")
    if max(map(abs, polygon)) > FARTHEST * max(height, width):
        raise ValueError(f"a polygon with a corner more than {FARTHEST} times the image's longer side away")
    corners = np.trunc(UPSAMPLING * np.asarray(polygon, dtype=np.float64).reshape(-1, 2) + 0.5).astype(np.int64)
    following = np.roll(corners, -1, axis=0)
    if np.abs(following - corners).max(axis=1).sum() > LONGEST:
        raise ValueError(f"a polygon with an outline of more than {LONGEST // UPSAMPLING} pixels")
    outline = np.concatenate([_line(start, end) for start, end in zip(corners, following, strict=True)])
    (x_before, y_before), (x_after, y_after) = outline[:-1].T, outline[1:].T
    crossing = x_before != x_after
    x = np.where(x_after < x_before, x_after, x_after - 1)[crossing]
    y = np.minimum(y_before, y_after)[crossing]
    column = (x + 0.5) / UPSAMPLING - 0.5
    row = np.ceil(np.clip((y + 0.5) / UPSAMPLING - 0.5, 0, height)).astype(np.int64)
    in_the_middle = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    turns = column[in_the_middle].astype(np.int64) * height + row[in_the_middle]
    return np.cumsum(np.bincount(turns, minlength=height * width + 1))[: height * width] % 2 == 1


def _line(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Grid points (points, 2) from start to end, one per step of the longer axis."""
    longer = int(abs(end[1] - start[1]) > abs(end[0] - start[0]))
    low, high = (start, end) if start[longer] <= end[longer] else (end, start)
    steps = np.arange(high[longer] - low[longer] + 1)
    slope = (high[1 - longer] - low[1 - longer]) / max(1, len(steps) - 1)
    points = np.empty((len(steps), 2), dtype=np.int64)
    points[:, longer] = low[longer] + steps
    points[:, 1 - longer] = np.trunc(low[1 - longer] + slope * steps + 0.5)
    return points if low is start else points[::-1]

"""Masks of COCO's annotation files: polygons and run lengths, turned into pixels as the official tools do."""

import json
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.detection.annotation_records import Coordinate, as_record

UPSAMPLING = 5
"""The official tools draw a polygon's outline on a grid finer by this factor."""

LONGEST = 2**22
"""Steps of a polygon's outline on that grid, which are all in memory at once."""

FARTHEST = 100
"""How many times the image's longer side a corner may be away, as the outline is drawn point by point."""

NO_POLYGONS = b"[]"
"""The segmentation of an object that has none."""


class Runs(msgspec.Struct):
    """Lengths of runs of pixels down the columns, alternating between outside and inside, the first one outside.

    Attributes:
        size: Height and width.
        counts: The lengths, as numbers or in COCO's text form.
    """

    size: tuple[int, int]
    counts: list[int] | str


Segmentation = list[list[float]] | Runs
"""Polygons (x, y, x, y, ...), whose union counts, or run lengths."""

_DECODER = msgspec.json.Decoder(Segmentation)


def encode_segmentation(segmentation: Any, where: str, place: str) -> bytes:
    """Bring a parsed segmentation (None: there is none) into one form, in little memory, for `stored_segmentation`.

    Polygons come as lists of x, y, x, y, ... or of pairs, a single one also without the list around it. Those of less
    than three corners are left out. Raises SampleError, with the file or row and the place in it, if it is neither
    polygons nor run lengths.
    """
    if isinstance(segmentation, dict):
        runs = as_record(segmentation, Runs, where, place)
        return json.dumps({"size": runs.size, "counts": runs.counts}).encode()  # msgspec's encoder fails on large ints
    polygons = [] if segmentation is None else segmentation
    if isinstance(polygons, list) and polygons:
        depth = _depth(polygons)
        if depth == 1 or (depth == 2 and all(len(part) == 2 for part in polygons)):
            polygons = [polygons]
        polygons = [_flat(polygon) for polygon in polygons]
    polygons = as_record(polygons, list[list[Coordinate]], where, place)
    for position, polygon in enumerate(polygons):
        if len(polygon) % 2:
            raise SampleError(f"{where}: {place}[{position}]: found {len(polygon)} numbers, expected x, y, x, y, ...")
    return json.dumps([polygon for polygon in polygons if len(polygon) >= 6]).encode()


def encode_plain(encoded: bytes, where: str, place: str) -> bytes:
    """Do what `encode_segmentation` does, of JSON: most segmentations of a file are in that form already."""
    try:
        found = _DECODER.decode(encoded)
    except msgspec.DecodeError:
        found = []
    if isinstance(found, Runs) or (found and all(len(polygon) >= 6 and not len(polygon) % 2 for polygon in found)):
        return encoded
    try:
        segmentation = msgspec.json.decode(encoded)
    except msgspec.DecodeError as error:
        raise SampleError(f"{where}: {place}: not JSON ({error})") from error
    return encode_segmentation(segmentation, where, place)


def stored_segmentation(encoded: bytes) -> Segmentation:
    """Give back what `encode_segmentation` brought into one form."""
    return _DECODER.decode(encoded)


def decode_segmentation(segmentation: Segmentation, height: int, width: int) -> Tensor:
    """Turn polygons of three corners or more, or run lengths, into pixels: boolean (height, width).

    Raises:
        ValueError: If a polygon's corner is too far away or its outline too long, or run lengths don't fit the image.
    """
    if isinstance(segmentation, Runs):
        if segmentation.size != (height, width):
            said_height, said_width = segmentation.size
            raise ValueError(f"a mask of {said_width} x {said_height} pixels on an image of {width} x {height}")
        counts = segmentation.counts
    else:
        counts = _polygon_runs(segmentation, height, width)
    return _run_pixels(list(_lengths(counts)), height, width)


def shows_nothing(segmentation: Segmentation, height: int, width: int) -> bool:
    """Say whether all polygons lie outside the image, or no run is inside the object, which is seen without pixels."""
    if isinstance(segmentation, Runs):
        return not any(islice(_lengths(segmentation.counts), 1, None, 2))
    return all(_is_outside(polygon, height, width) for polygon in segmentation)


def _depth(lists: Any) -> int:
    return 1 + _depth(lists[0]) if isinstance(lists, list) and lists else int(isinstance(lists, list))


def _flat(polygon: Any) -> Any:
    """Return a polygon's numbers, of pairs too."""
    pairs = isinstance(polygon, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in polygon)
    return [number for pair in polygon for number in pair] if pairs else polygon


def _is_outside(polygon: list[float], height: int, width: int) -> bool:
    x, y = polygon[0::2], polygon[1::2]
    return max(x) <= 0 or max(y) <= 0 or min(x) >= width or min(y) >= height


def _run_pixels(lengths: list[int], height: int, width: int) -> Tensor:
    num_pixels = height * width
    if not all(0 <= length <= num_pixels for length in lengths):
        raise ValueError(f"a run length below 0 or above the {num_pixels} pixels of the image")
    if sum(lengths) != num_pixels:
        raise ValueError(f"run lengths of {sum(lengths)} pixels for an image of {num_pixels}")
    edges = list(accumulate(lengths))
    runs = list(zip(edges[0::2], edges[1::2], strict=False))  # first pixel inside, first pixel behind
    mask = torch.zeros(height, width, dtype=torch.bool)
    if runs:
        # Only the object's columns are turned into rows: a copy across memory takes longer than all else.
        first, last = runs[0][0] // height, -(-runs[-1][1] // height)
        columns = np.zeros((last - first) * height, dtype=bool)
        for start, end in runs:
            columns[start - first * height : end - first * height] = True
        mask[:, first:last] = torch.from_numpy(columns).view(-1, height).T
    return mask


def _lengths(counts: list[int] | str) -> Iterator[int]:
    """Run lengths, of COCO's text form too: five bits a character, low ones first, from the third on as differences."""
    if not isinstance(counts, str):
        yield from counts
        return
    numbers: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last character of a number
            if bits & 0x10:  # its sign
                value -= 1 << shift
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            yield numbers[-1]
            value, shift = 0, 0


def _polygon_runs(polygons: list[list[float]], height: int, width: int) -> list[int] | str:
    from faster_coco_eval.core import mask as coco_mask

    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
        if max(map(abs, polygon)) > FARTHEST * max(height, width):
            raise ValueError(f"a polygon with a corner more than {FARTHEST} times the image's longer side away")
        corners = np.array(polygon).reshape(-1, 2)
        sides = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
        if UPSAMPLING * sides.sum() > LONGEST:
            raise ValueError(f"a polygon with an outline of more than {LONGEST // UPSAMPLING} pixels")
    if not polygons:
        return [height * width]
    counts: bytes = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"]
    return counts.decode()

"""Images that are in several parts of a data set, so that evaluation sees what training saw."""

import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import combinations
from pathlib import Path

from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.image_files import readable
from mambarium.platform.data.images.intensity import StoredImages

MOST_IMAGES = 100_000
"""Sets of more images are not looked through."""

MOST_BYTES = 2**31
"""Nor are those of which more would have to be read: only files of the same size in two parts are."""


def equal_images(parts: Mapping[str, StoredImages]) -> list[str]:
    """Say which parts share images, byte by byte, for sets that are small enough to be read for it.

    There is a sentence for each two parts that do, with the number and an example.
    """
    if sum(len(images) for images in parts.values()) > MOST_IMAGES:
        return []
    by_size: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for part, images in parts.items():
        for index in range(len(images)):
            with suppress(SampleError, OSError):  # that is told when it is read
                if (stored := images.stored(index)) is not None:
                    by_size[os.stat(stored).st_size if isinstance(stored, Path) else len(stored)].append((part, index))
    candidates = {size: found for size, found in by_size.items() if len({part for part, _ in found}) > 1}
    if sum(size * len(found) for size, found in candidates.items()) > MOST_BYTES:
        return []
    by_content: dict[bytes, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for found in candidates.values():
        for part, index in found:
            with suppress(SampleError, OSError):
                stored = parts[part].stored(index)
                content = stored.read_bytes() if isinstance(stored, Path) else stored or b""
                by_content[blake2b(content, digest_size=16).digest()][part].append(index)
    sentences = []
    for one, other in combinations(parts, 2):
        shared = [of_part for of_part in by_content.values() if one in of_part and other in of_part]
        if shared:
            count = sum(len(of_part[other]) for of_part in shared)
            first, second = (readable(parts[part].name(shared[0][part][0])) for part in (one, other))
            sentences.append(f"{count:,} of the {other} images are also {one} images, such as {second} and {first}")
    return sentences

"""Reference figures against plain computations."""

import math
import random
from collections import Counter, defaultdict

import pytest

from mambarium.platform.data.text.reference_figures import lzma_bits_per_byte, ngram_bits_per_byte


def plain_ngram(train: bytes, held_out: bytes, order: int) -> float:
    counts: dict[bytes, Counter[int]] = defaultdict(Counter)
    for position in range(len(train)):
        for length in range(min(order, position) + 1):
            counts[train[position - length : position]][train[position]] += 1
    bits = 0.0
    for position, byte in enumerate(held_out):
        probability = 1 / 256
        for length in range(min(order, position) + 1):
            seen = counts.get(held_out[position - length : position])
            if seen:
                different = len(seen)
                probability = (seen[byte] + different * probability) / (seen.total() + different)
        bits -= math.log2(probability)
    return bits / len(held_out)


@pytest.mark.parametrize("order", [0, 1, 4])
def test_ngram_equals_the_plain_one(order: int) -> None:
    draw = random.Random(0)
    train, held_out = (bytes(draw.choices(b"abcab \xff", k=size)) for size in (500, 80))
    held_out = b"\x00new" + held_out
    assert ngram_bits_per_byte(train, held_out, order) == pytest.approx(plain_ngram(train, held_out, order))


def test_texts_without_much_to_learn() -> None:
    assert ngram_bits_per_byte(b"", b"abc", 4) == 8
    assert ngram_bits_per_byte(b"ab", b"x", 4) > 8
    repeated = bytes(random.Random(1).randbytes(1000))
    assert lzma_bits_per_byte(repeated, repeated) < 1 < 7 < lzma_bits_per_byte(b"", repeated)

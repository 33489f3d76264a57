"""What simple methods reach on a text, to stand beside a model's bits per byte."""

import lzma
import math

import numpy as np


def text_reference_figures(train: bytes, held_out: bytes) -> dict[str, float]:
    """Return bits per byte of a held-out text under three simple methods that know the training text, by name."""
    return {
        "unigram bits/byte": ngram_bits_per_byte(train, held_out, order=0),
        "order-4 n-gram bits/byte": ngram_bits_per_byte(train, held_out, order=4),
        "lzma bits/byte": lzma_bits_per_byte(train, held_out),
    }


def lzma_bits_per_byte(train: bytes, held_out: bytes) -> float:
    """Return what the held-out text, of at least one byte, adds to the compressed training text, in bits per byte."""
    added = len(_compressed(train + held_out)) - len(_compressed(train))
    return 8 * added / len(held_out)


def _compressed(text: bytes) -> bytes:
    dictionary = max(1 << 16, 1 << math.ceil(math.log2(len(text) + 1)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return lzma.compress(text, format=lzma.FORMAT_XZ, filters=filters)


def ngram_bits_per_byte(train: bytes, held_out: bytes, order: int) -> float:
    """Return the cross-entropy of an n-gram model with Witten-Bell interpolation, counted on the training text.

    A context `h` seen `c(h)` times with `t(h)` different successors gives the next byte `b` the probability
    `(c(hb) + t(h) p(b | shorter h)) / (c(h) + t(h))`; the empty context falls back on the uniform
    distribution (Witten and Bell, 1991).

    Args:
        train: The training text.
        held_out: At least one byte; its first bytes are predicted from the contexts there are.
        order: Bytes of context, 0 to 6.

    Returns:
        Bits per byte.
    """
    train_codes = np.frombuffer(train, dtype=np.uint8).astype(np.int64)
    held_out_codes = np.frombuffer(held_out, dtype=np.uint8).astype(np.int64)
    probability = np.full(len(held_out), 1 / 256)
    for context_length in range(min(order, len(held_out) - 1) + 1):
        # All (context, next byte) pairs as numbers in base 256, next byte last: sorting groups by context.
        pairs, pair_counts = np.unique(_grams(train_codes, context_length + 1), return_counts=True)
        contexts, first = np.unique(pairs >> 8, return_index=True)
        context_counts = np.add.reduceat(pair_counts, first) if len(first) else pair_counts
        successors = np.diff(np.append(first, len(pairs)))

        wanted = _grams(held_out_codes, context_length + 1)
        pair_count = _lookup(pairs, pair_counts, wanted)
        context_count = _lookup(contexts, context_counts, wanted >> 8)
        successor_count = _lookup(contexts, successors, wanted >> 8)

        shorter = probability[context_length:]
        seen = context_count > 0
        interpolated = (pair_count + successor_count * shorter) / np.maximum(context_count + successor_count, 1)
        probability[context_length:] = np.where(seen, interpolated, shorter)
    return float(-np.log2(probability).mean())


def _grams(codes: np.ndarray, length: int) -> np.ndarray:
    """Return all runs of `length` bytes as numbers in base 256."""
    count = max(0, len(codes) - length + 1)
    grams = np.zeros(count, dtype=np.int64)
    for position in range(length):
        grams = (grams << 8) | codes[position : position + count]
    return grams


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the values of the wanted keys, 0 for a key that is not there; keys are sorted."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    position = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[position] == wanted, values[position], 0)

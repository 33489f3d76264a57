"""Randomness as a function of numbers: augmentation depends on (seed, pass, index) and nothing else."""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def mixed_seed(purpose: str, *numbers: int) -> int:
    """Return a seed in [0, 2**63), BLAKE2b of a purpose and of signed 64-bit integers, such as (seed, pass, index).

    Different purposes never share a stream.
    """
    message = struct.pack(f"<{len(numbers)}q", *numbers)
    digest = blake2b(message, digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all_generators(seed: int) -> None:
    """Seed torch (every device), NumPy's and Python's global generators, as `mixed_seed` says."""
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


# NumPy's generators that no sample uses at the moment. Making one takes ten times as long as seeding it.
_idle_generators: list[np.random.MT19937] = []


@contextmanager
def sample_randomness(seed: int, pass_index: int, sample_index: int) -> Iterator[None]:
    """Make the global random numbers inside the block a function of one sample, and leave no trace outside.

    Covers what augmentations draw from: torch's CPU generator, NumPy's and Python's global generators, which may be
    seeded anew inside the block.

    Args:
        seed: The run's seed.
        pass_index: Which pass through the data this is, from 0; evaluation uses 0.
        sample_index: The sample's index in its data set.
    """
    state_of_torch = torch.get_rng_state()
    # Swapped rather than saved: reading and writing the state takes far longer. np.random.seed wants an MT19937.
    generator_of_numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]  # not exported by NumPy's stubs
    generator = _idle_generators.pop() if _idle_generators else np.random.MT19937(0)
    state_of_python = random.getstate()
    number = mixed_seed("sample", seed, pass_index, sample_index)
    # torch.manual_seed would also reach for the GPU, which a loader's worker must not touch
    torch.default_generator.manual_seed(number)
    np.random.set_bit_generator(generator)  # type: ignore[attr-defined]  # not exported by NumPy's stubs
    np.random.seed([number & 0xFFFFFFFF, number >> 32])
    random.seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(state_of_torch)
        np.random.set_bit_generator(generator_of_numpy)  # type: ignore[attr-defined]  # not exported by NumPy's stubs
        _idle_generators.append(generator)
        random.setstate(state_of_python)

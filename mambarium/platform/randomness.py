"""Randomness as a function of numbers: augmentation depends on (seed, pass, index) and nothing else."""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def mixed_seed(purpose: str, *numbers: int) -> int:
    """A 64-bit seed that depends on a purpose and on some integers, the same on every machine.

    Args:
        purpose: What the random numbers are for; different purposes never share a stream.
        numbers: Signed 64-bit integers, such as (seed, pass, index).

    Returns:
        An integer in [0, 2**63), BLAKE2b of the arguments.
    """
    message = struct.pack(f"<{len(numbers)}q", *numbers)
    digest = blake2b(message, digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all_generators(seed: int) -> None:
    """Seeds torch (every device), NumPy's and Python's global generators.

    Args:
        seed: As `mixed_seed` returns it.
    """
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextmanager
def sample_randomness(seed: int, pass_index: int, sample_index: int) -> Iterator[None]:
    """Makes the global random numbers inside the block a function of one sample, and leaves no trace outside.

    Covers what augmentations draw from: torch's CPU generator, NumPy's and Python's global generators.

    Args:
        seed: The run's seed.
        pass_index: Which pass through the data this is, from 0; evaluation uses 0.
        sample_index: The sample's index in its data set.
    """
    state_of_torch = torch.get_rng_state()
    # swapped rather than saved: reading and writing the state of NumPy, or seeding its MT19937, takes far longer
    generator_of_numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]  # not exported by NumPy's stubs
    state_of_python = random.getstate()
    number = mixed_seed("sample", seed, pass_index, sample_index)
    # torch.manual_seed would also reach for the GPU, which a loader's worker must not touch
    torch.default_generator.manual_seed(number)
    np.random.set_bit_generator(np.random.PCG64(number))  # type: ignore[attr-defined]  # not exported by NumPy's stubs
    random.seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(state_of_torch)
        np.random.set_bit_generator(generator_of_numpy)  # type: ignore[attr-defined]  # not exported by NumPy's stubs
        random.setstate(state_of_python)

"""Order of samples: permutations per pass, shares of processes, position."""

import random

import numpy as np
import pytest
import torch

from mambarium.errors import InputError
from mambarium.platform.data.core.order import EvaluationBatches, GlobalBatches, TrainingBatches
from mambarium.platform.position import Position
from mambarium.platform.randomness import mixed_seed, sample_randomness


def at(finished_batches: int) -> Position:
    position = Position(seed=0)
    position.finished_batches = finished_batches
    return position


def training(num_samples=11, batch_size=4, total=7, seed=5, finished=0, rank=0, world_size=1) -> TrainingBatches:
    return TrainingBatches(GlobalBatches(num_samples, batch_size, seed, rank, world_size), total, at(finished))


def test_each_pass_is_a_permutation_without_its_rest():
    batches = list(training())
    assert len(batches) == 7 and all(len(batch) == 4 for batch in batches)
    assert [key[0] for batch in batches for key in batch] == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 4
    for pass_index in range(3):
        indices = [index for batch in batches for pass_, index in batch if pass_ == pass_index]
        assert len(set(indices)) == 8 and set(indices) <= set(range(11))
    assert batches[0] != [(0, index) for _, index in batches[2]], "passes must differ in order"


def test_a_training_set_may_be_one_batch():
    assert [index for batch in training(num_samples=4, total=1) for _, index in sorted(batch)] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="batch_size is 4, but there are 3 training samples"):
        training(num_samples=3)


def test_fewer_samples_than_a_batch_are_evaluated():
    assert list(EvaluationBatches(2, 4)) == [[(0, 0), (0, 1)]]
    assert list(EvaluationBatches(2, 4, rank=1, world_size=2)) == [[(0, 1)]]


def test_a_rest_of_one_pass_takes_part_in_others():
    sampler = training()
    left_out = [set(sampler.batches.order(pass_index)[8:].tolist()) for pass_index in range(30)]
    assert set.union(*left_out) == set(range(11)) and not set.intersection(*left_out)


def test_order_depends_on_the_seed_alone():
    assert list(training(seed=5)) == list(training(seed=5))
    assert list(training(seed=5)) != list(training(seed=6))


@pytest.mark.parametrize("finished", range(8))
def test_starts_at_the_position_and_keeps_its_length(finished):
    sampler = training(finished=finished)
    assert list(sampler) == list(training())[finished:]
    assert len(sampler) == 7


def test_position_is_read_when_iteration_begins():
    position = at(0)
    sampler = TrainingBatches(GlobalBatches(11, 4, 5), 7, position)
    iterator = iter(sampler)
    position.finished_batches = 3
    assert next(iterator) == list(training())[3]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_see_the_global_batches(world_size):
    shares = [list(training(rank=rank, world_size=world_size)) for rank in range(world_size)]
    together = [[key for share in batch for key in share] for batch in zip(*shares, strict=True)]
    assert together == list(training())
    assert all(len(batch) == 4 // world_size for share in shares for batch in share)


def test_passes_are_counted():
    position = at(5)
    assert position.passes is None
    TrainingBatches(GlobalBatches(11, 4, 5), 7, position)
    assert position.passes == 2.5


@pytest.mark.parametrize(
    ("num_samples", "batch_size"), [(1, 4), (4, 4), (5, 4), (7, 4), (8, 4), (9, 4), (10, 8), (23, 8)]
)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_sees_each_sample_once_in_equally_many_batches(num_samples, batch_size, world_size):
    if num_samples < world_size:
        with pytest.raises(InputError, match="can't be shared by"):
            EvaluationBatches(num_samples, batch_size, 0, world_size)
        return
    samplers = [EvaluationBatches(num_samples, batch_size, rank, world_size) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares] == [len(shares[0])] * world_size
    assert all(batch for share in shares for batch in share), "an empty batch"
    together = [key for batches in zip(*shares, strict=True) for batch in batches for key in batch]
    assert together == [(0, index) for index in range(num_samples)]
    assert max(len(batch) for share in shares for batch in share) <= batch_size // world_size + 1


def test_bad_sizes():
    with pytest.raises(InputError, match=r"batch_size 5 can't be shared by 2 processes.*multiple of 2"):
        training(batch_size=5, world_size=2)
    with pytest.raises(InputError, match="batch_size is 12, but there are 11 training samples"):
        training(batch_size=12)
    with pytest.raises(InputError, match="batch_size is 0; give 1 or more"):
        EvaluationBatches(3, 0)


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_sample_randomness_depends_on_its_three_numbers():
    drawn = set()
    for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0)]:
        with sample_randomness(*key):
            first = draw()
        draw()
        with sample_randomness(*key):
            assert draw() == first
        drawn.add(first)
    assert len(drawn) == 5


def test_sample_randomness_can_be_nested():
    """As when a mosaic asks for its other samples."""
    with sample_randomness(0, 0, 0):
        draw()
        expected = draw()
    with sample_randomness(0, 0, 0):
        draw()
        with sample_randomness(0, 0, 1):
            draw()
        assert draw() == expected


def test_sample_randomness_leaves_no_trace():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with pytest.raises(ZeroDivisionError), sample_randomness(0, 0, 0):
        draw()
        raise ZeroDivisionError
    assert draw() == expected


def test_a_sample_may_seed_numpy_anew_without_touching_other_samples():
    def sample(index: int) -> tuple[float, float]:
        with sample_randomness(0, 0, index):
            first = np.random.rand()
            if index == 1:
                np.random.seed(5)
            return first, np.random.randn()

    np.random.seed(5)
    seeded = np.random.randn()
    assert [sample(index) for index in (0, 1, 0)] == [sample(0), (sample(1)[0], seeded), sample(0)]
    assert len({sample(index) for index in range(4)}) == 4


def test_mixed_seed_is_fixed_for_ever():
    """A changed value would break the resume of runs that people have on disk."""
    assert mixed_seed("sample", 0, 1, 2) == MIXED_SEED
    assert mixed_seed("order", 0, 1) != mixed_seed("sample", 0, 1)
    assert 0 <= mixed_seed("sample", -1) < 2**63


MIXED_SEED = 2133661840782784089

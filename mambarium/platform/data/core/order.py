"""In which order samples are dealt out: whole global batches, cut by position and shared among processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from mambarium.errors import InputError
from mambarium.platform.position import Position
from mambarium.platform.randomness import mixed_seed

SampleKey = tuple[int, int]
"""(pass_index, sample_index): what a data set's `__getitem__` takes."""


def _process_share(batch_size: int, world_size: int) -> int:
    """Return how many samples of each global batch one process takes."""
    if batch_size < 1:
        raise InputError(f"data.batch_size is {batch_size}; give 1 or more")
    if batch_size % world_size:
        raise InputError(
            f"data.batch_size {batch_size} can't be shared by {world_size} processes: make it a multiple of "
            f"{world_size}, or change trainer.devices"
        )
    return batch_size // world_size


@dataclass(eq=False)
class GlobalBatches:
    """One process's share of each global batch, by the batch's number.

    The order of pass p is a permutation by (seed, p). A pass is floor(num_samples / batch_size) global
    batches; the samples that don't fill a batch sit out this pass (others in the next, by its own
    permutation). Process `rank` takes the rank-th equal slice of each global batch, so any number of processes sees
    the same global batches.

    Raises:
        InputError: If the batch can't be shared equally or the training set doesn't fill one batch.
    """

    num_samples: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        self._share = _process_share(self.batch_size, self.world_size)
        if self.num_samples < self.batch_size:
            raise InputError(
                f"data.batch_size is {self.batch_size}, but there are {self.num_samples} training samples; give no more"
            )
        self.batches_per_pass = self.num_samples // self.batch_size
        self._order_of, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, batch_index: int) -> list[SampleKey]:
        """Return the keys of this process's share of a batch, counted from 0 over all passes."""
        pass_index, batch_of_pass = divmod(batch_index, self.batches_per_pass)
        if pass_index != self._order_of:
            self._order, self._order_of = self.order(pass_index), pass_index
        start = batch_of_pass * self.batch_size + self.rank * self._share
        return [(pass_index, index) for index in self._order[start : start + self._share].tolist()]

    def order(self, pass_index: int) -> torch.Tensor:
        """Return the permutation of all samples in a pass: int64 (num_samples,)."""
        generator = torch.Generator().manual_seed(mixed_seed("order", self.seed, pass_index))
        return torch.randperm(self.num_samples, generator=generator)


@dataclass(eq=False)
class TrainingBatches(Sampler[list[SampleKey]]):
    """Batch sampler of a whole run, all passes in one, that starts wherever the run's position is.

    The position is read when iteration begins: a checkpoint is restored by then.
    """

    batches: GlobalBatches
    total_batches: int
    position: Position

    def __post_init__(self) -> None:
        self.position.batches_per_pass = self.batches.batches_per_pass

    def __len__(self) -> int:
        return self.total_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        first = self.position.dealt_from = self.position.finished_batches
        for batch_index in range(first, self.total_batches):
            yield self.batches[batch_index]


@dataclass(eq=False)
class EvaluationBatches(Sampler[list[SampleKey]]):
    """Batch sampler that deals every sample exactly once over all processes, in order.

    Each global batch is shared as evenly as it goes, and every process gets the same number of batches:
    collective operations in evaluation (DistributedDataParallel copies buffers in each forward) hang
    otherwise. A rest of fewer samples than processes therefore joins the batch before it.

    Raises:
        InputError: If the batch can't be shared equally or there are fewer samples than processes.
    """

    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        _process_share(self.batch_size, self.world_size)
        if self.num_samples < self.world_size:
            raise InputError(
                f"{self.num_samples} evaluation samples can't be shared by {self.world_size} processes; lower "
                "trainer.devices"
            )

    def __len__(self) -> int:
        full, rest = divmod(self.num_samples, self.batch_size)
        return full + (rest >= self.world_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch_index in range(len(self)):
            start = batch_index * self.batch_size
            last = batch_index == len(self) - 1
            end = self.num_samples if last else start + self.batch_size
            share, extra = divmod(end - start, self.world_size)
            first = start + self.rank * share + min(self.rank, extra)
            yield [(0, index) for index in range(first, first + share + (self.rank < extra))]

"""Which task has its turn in which batch of a run that trains several."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.data import Sampler

from mambarium.platform.data.core.order import EvaluationBatches, GlobalBatches
from mambarium.platform.position import Position
from mambarium.platform.randomness import mixed_seed

Turns = Literal["joint", "round_robin", "proportional"]
"""joint: every step has a batch of every task; round_robin: the tasks take turns; proportional: each step has a batch
of one task, drawn by how many batches its data has."""

TaskSampleKey = tuple[str, int, int]
"""(task, pass_index, sample_index)."""


def batches_per_pass(streams: Mapping[str, GlobalBatches], turns: Turns) -> int:
    """Count the steps until the task with the most batches has seen all its data; if drawn, all on average."""
    lengths = [stream.batches_per_pass for stream in streams.values()]
    return {"joint": max(lengths), "round_robin": max(lengths) * len(lengths), "proportional": sum(lengths)}[turns]


@dataclass(eq=False)
class MultiTaskBatches(Sampler[list[TaskSampleKey]]):
    """Batch sampler of a whole run over several tasks, that starts wherever the run's position is.

    Whose turn a step is follows from (seed, step) alone, the same on every process. The position is read when iteration
    begins: a checkpoint is restored by then.
    """

    streams: Mapping[str, GlobalBatches]
    turns: Turns
    total_batches: int
    seed: int
    position: Position

    def __post_init__(self) -> None:
        self.position.batches_per_pass = batches_per_pass(self.streams, self.turns)

    def __len__(self) -> int:
        return self.total_batches

    def __iter__(self) -> Iterator[list[TaskSampleKey]]:
        first = self.position.dealt_from = self.position.finished_batches
        names = list(self.streams)
        on_turn = self._on_turn()
        done = [first] * len(names) if on_turn is None else on_turn[:first].bincount(minlength=len(names)).tolist()
        for step in range(first, self.total_batches):
            tasks = range(len(names)) if on_turn is None else [int(on_turn[step])]
            keys: list[TaskSampleKey] = []
            for task in tasks:
                keys += [(names[task], *key) for key in self.streams[names[task]][done[task]]]
                done[task] += 1
            yield keys

    def _on_turn(self) -> torch.Tensor | None:
        """Return the task of each step (total_batches,); None if every task has each step."""
        if self.turns == "joint":
            return None
        if self.turns == "round_robin":
            return torch.arange(self.total_batches) % len(self.streams)
        shares = torch.tensor([float(stream.batches_per_pass) for stream in self.streams.values()])
        generator = torch.Generator().manual_seed(mixed_seed("turns", self.seed))
        return torch.multinomial(shares, self.total_batches, replacement=True, generator=generator)


@dataclass(eq=False)
class MultiTaskEvaluationBatches(Sampler[list[TaskSampleKey]]):
    """Batch sampler that deals every sample of every task exactly once over all processes, task after task."""

    streams: Mapping[str, EvaluationBatches]

    def __len__(self) -> int:
        return sum(len(stream) for stream in self.streams.values())

    def __iter__(self) -> Iterator[list[TaskSampleKey]]:
        for name, stream in self.streams.items():
            for keys in stream:
                yield [(name, *key) for key in keys]

"""The data of several tasks that are trained at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.data_module import ExactDataModule, Part, RunOptions, Samples
from mambarium.platform.data.core.order import EvaluationBatches, GlobalBatches
from mambarium.platform.data.core.task_turns import (
    MultiTaskBatches,
    MultiTaskEvaluationBatches,
    TaskSampleKey,
    Turns,
    batches_per_pass,
)
from mambarium.platform.position import Position
from mambarium.tasks.batches import MultiTaskBatch


class MultiTaskData(ExactDataModule):
    """One data module per task, dealt out by one position, so that a run over all of them resumes exactly.

    A pass ends when the task with the most batches has been through its data once; with `turns: proportional` when
    there have been as many steps as all tasks' data has batches. Evaluation sees each sample of each task once. All
    tasks have this module's seed: joint batches from the same images then are about the same images in the same order.

    Args:
        tasks: The data module of each task, by the task's name. Each says its own `batch_size`; length, workers and
            seed are this module's.
        turns: `joint`: every step has a batch of every task; `round_robin`: the tasks take turns; `proportional`: each
            step has a batch of one task, drawn by how many batches its data has.
        options: Those of `ExactDataModule` beside the batch size.

    Raises:
        InputError: If there is no task, or a task's data has no classes or says its own length or workers.
    """

    def __init__(
        self, tasks: dict[str, ExactDataModule], turns: Turns = "joint", **options: Inherited[RunOptions]
    ) -> None:
        if not tasks:
            raise InputError("data.tasks is empty; give the data of at least one task")
        sizes = [data.batch_size for data in tasks.values()]
        batch_size = sum(sizes) if turns == "joint" else max(sizes)
        super().__init__(batch_size=batch_size, **options)
        self.tasks: dict[str, ExactDataModule] = {}
        for name, data in tasks.items():
            if data.passes is not None:
                raise InputError(f"data.tasks.{name}; give passes beside `tasks`, for all tasks together")
            if data.num_workers:
                raise InputError(f"data.tasks.{name}; give num_workers beside `tasks`, for all tasks together")
            if "class_names" not in data.fact_names:
                raise InputError(f"data.tasks.{name}: {type(data).__name__} has no classes; give data of images")
            data.seed = self.seed
            self.tasks[name] = data
        self.turns = turns

    @property
    def of_tasks(self) -> dict[str, ExactDataModule]:
        return self.tasks

    @property
    def class_names(self) -> dict[str, list[str]]:
        """The names of each task's classes."""
        return {name: data.fact("class_names") for name, data in self.tasks.items()}

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes of each task."""
        return {name: len(names) for name, names in self.class_names.items()}

    @property
    def class_frequencies(self) -> dict[str, list[str] | None]:
        """LVIS's frequency of each class, for each task whose data has them; else None."""
        return {
            name: data.fact("class_frequencies") if "class_frequencies" in data.fact_names else None
            for name, data in self.tasks.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: data.state_dict() for name, data in self.tasks.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for name, data in self.tasks.items():
            data.load_state_dict(state_dict.get(name, {}))

    def prepare_data(self) -> None:
        for data in self.tasks.values():
            data.prepare_data()

    def setup(self, stage: str) -> None:
        for data in self.tasks.values():
            data.setup(stage)

    def samples(self, part: Part) -> "MultiTaskSamples":
        return MultiTaskSamples({name: data.samples(part) for name, data in self.tasks.items()})

    @property
    def collate(self) -> "CollateTasks":
        return CollateTasks({name: data.collate for name, data in self.tasks.items()})

    def description(self) -> list[str]:
        return [f"{line} ({name})" for name, data in self.tasks.items() for line in data.description()]

    def reference_figures(self) -> dict[str, float]:
        return {
            f"{name}: {figure}": value
            for name, data in self.tasks.items()
            for figure, value in data.reference_figures().items()
        }

    @property
    def batches_per_pass(self) -> int:
        return batches_per_pass(self._streams(), self.turns)

    def _training_batches(self, position: Position) -> MultiTaskBatches:
        return MultiTaskBatches(self._streams(), self.turns, self.total_batches, self.seed, position)

    def _streams(self) -> dict[str, GlobalBatches]:
        return {
            name: GlobalBatches(len(data.training_samples()), data.batch_size, self.seed, self._rank, self._world_size)
            for name, data in self.tasks.items()
        }

    def _evaluation_loader(self, samples: Samples) -> DataLoader[Any]:
        assert isinstance(samples, MultiTaskSamples)
        streams = {
            name: EvaluationBatches(len(part), self.tasks[name].batch_size, self._rank, self._world_size)
            for name, part in samples.tasks.items()
        }
        return self._loader(samples, MultiTaskEvaluationBatches(streams))


@dataclass(eq=False)
class MultiTaskSamples:
    """The samples of several tasks as one set."""

    tasks: dict[str, Samples]

    def __len__(self) -> int:
        return sum(len(samples) for samples in self.tasks.values())

    def __getitem__(self, key: TaskSampleKey) -> tuple[str, Any]:
        name, pass_index, sample_index = key
        return name, self.tasks[name][pass_index, sample_index]


@dataclass(frozen=True)
class CollateTasks:
    """Makes a `MultiTaskBatch` of samples that know their task, by what makes a batch of each task's samples."""

    collates: dict[str, Callable[[list[Any]], Any]]

    def __call__(self, samples: list[tuple[str, Any]]) -> MultiTaskBatch:
        """Sort samples by task and make each task's batch."""
        by_task: dict[str, list[Any]] = {}
        for name, sample in samples:
            by_task.setdefault(name, []).append(sample)
        batches = {name: self.collates[name](of_task) for name, of_task in by_task.items()}
        first, *others = [batch["image"] for batch in batches.values()]
        return MultiTaskBatch(tasks=batches, shared_images=all(torch.equal(first, other) for other in others))

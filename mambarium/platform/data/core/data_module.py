"""What all data modules share: exact order, exact coverage, length of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypedDict

import lightning
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mambarium.errors import InputError
from mambarium.platform.data.core.known_facts import Facts, described_difference, disagreement
from mambarium.platform.data.core.order import EvaluationBatches, GlobalBatches, TrainingBatches
from mambarium.platform.position import Position
from mambarium.platform.worker_signals import shield_worker

MOST_WORKERS = 1024
MOST_BATCHES = 10**12

Part = Literal["train", "val", "test"]


class Samples(Protocol):
    """A map-style data set whose sample is a pure function of its key (and of the seed it was built with)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any:
        """Return a sample as it looks in a pass: the key is (pass, index), with several tasks (task, pass, index)."""
        ...


class RunOptions(TypedDict, total=False):
    """Options of `ExactDataModule` without the batch size."""

    passes: float | None
    num_workers: int
    seed: int


class BatchOptions(RunOptions, total=False):
    """Options of `ExactDataModule`."""

    batch_size: int


class ExactDataModule(ABC, lightning.LightningDataModule):
    """A data module whose batches are a function of (seed, finished batches) alone.

    Batches are global: with several processes each takes its share of the same batches that one process would
    see. Evaluation sees each sample exactly once over all processes.

    A constructor checks its arguments and touches no file; files are read when their content is first asked for. What
    a model has to know of the data it learnt from (`read_facts`) is part of the run's checkpoints. A module that a
    checkpoint was restored into says it without reading, and refuses data that says something else.

    A subclass defines `samples`, `collate`, and, if there are any, `read_facts` and `fact_names`.

    Args:
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load or draw samples; 0 does it in the training process.
        seed: Seed of order, augmentation and whatever else is drawn at random.

    Raises:
        InputError: If a number is out of range.
    """

    fact_names: ClassVar[tuple[str, ...]] = ()
    """What `read_facts` finds, known before anything is read."""

    def __init__(self, batch_size: int, passes: float | None = None, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size is {batch_size}; give 1 or more")
        if passes is not None and not passes > 0:
            raise InputError(f"data.passes is {passes}; give a number above 0")
        if not 0 <= num_workers <= MOST_WORKERS:
            raise InputError(f"data.num_workers is {num_workers}; give 0 to {MOST_WORKERS:,}")
        self.batch_size = batch_size
        self.passes = passes
        self.num_workers = num_workers
        self.seed = seed
        self._restored: Facts = {}

    @abstractmethod
    def samples(self, part: Part) -> Samples:
        """Return the data set trained on, validated on or tested on; called often, so made once."""

    def training_samples(self) -> Samples:
        """Return the data set trained on."""
        return self.samples("train")

    def validation_samples(self) -> Samples:
        """Return the data set validated on."""
        return self.samples("val")

    def test_samples(self) -> Samples:
        """Return the data set tested on."""
        return self.samples("test")

    @property
    def of_tasks(self) -> dict[str, ExactDataModule]:
        """The data of each of several tasks by its name; of a single one "" is the name."""
        return {"": self}

    def samples_to_show(self, part: Part) -> Samples:
        """Return the samples of a part of the data for a few of them to be looked at."""
        return self.samples(part)

    def sample_text(self, index: int, sample: Any) -> str | None:
        """Show a sample as text; None, as here, if it is no text."""
        return None

    def draw_sample(self, sample: Any) -> Tensor | None:
        """Draw a sample with its truth, uint8 (3, height, width); None, as here, if it is no image."""
        return None

    def most_objects(self) -> tuple[int, int]:
        """Return the largest number of objects in an image of any part, and of one class in an image.

        Crowds don't count; both are 0 where nothing is known of objects.
        """
        return 0, 0

    @property
    @abstractmethod
    def collate(self) -> Callable[[list[Any]], Any]:
        """What makes a batch of a list of samples; must be picklable."""

    @property
    def where(self) -> str:
        """What an error message calls the data: its path, if it has one."""
        return type(self).__name__

    @property
    def facts_need_reading(self) -> bool:
        """Whether `read_facts` opens files, rather than repeating the arguments."""
        return False

    def read_facts(self) -> Facts:
        """Find out what a model has to know of the data it learns from, in plain strings, numbers and lists."""
        return {}

    @cached_property
    def found_facts(self) -> Facts:
        """What `read_facts` found; whoever reads samples asks for it first, and `require_agreement` has checked it."""
        found = self.read_facts()
        self.require_agreement(found)
        return found

    def fact(self, name: str) -> Any:
        """Return one of the facts, that of a restored checkpoint if there is one."""
        return self._restored[name] if name in self._restored else self.found_facts[name]

    def require_agreement(self, found: Facts) -> None:
        """Refuse facts that are not those of a restored checkpoint's model; raises InputError with what both say."""
        for name, value in found.items():
            if name in self._restored and self._restored[name] != value:
                raise disagreement(self.where, name, described_difference(value, self._restored[name]))

    def settings(self) -> dict[str, Any]:
        """Return arguments that a checkpoint records beside the facts, in plain strings, numbers and lists."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the facts and the settings."""
        found = {} if self._restored and "found_facts" not in vars(self) else self.found_facts
        return {**self._restored, **found, **self.settings()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the facts over from what `state_dict` returned, or less; settings stay as they are configured.

        Raises:
            InputError: If the data has been read, or its arguments say without reading, and the facts differ.
        """
        self._restored = {name: value for name, value in state_dict.items() if name not in self.settings()}
        if "found_facts" in vars(self) or not self.facts_need_reading:
            self.require_agreement(self.found_facts)

    def description(self) -> list[str]:
        """Return what a user should know of the data before a run, in lines: the classes and how many of each."""
        return []

    def reference_figures(self) -> dict[str, float]:
        """Return figures that simple methods reach on the evaluation data, by name, computed on the spot."""
        return {}

    @property
    def batches_per_pass(self) -> int:
        """Whole global batches in one pass through the training data."""
        return self._global_batches().batches_per_pass

    @property
    def total_batches(self) -> int:
        """Global batches of the whole run, from `passes` or else from the trainer's `max_steps`.

        Raises:
            InputError: If neither says how long the run is, or it has no end that anyone will see.
        """
        if self.passes is not None:
            total = max(1, round(min(self.passes * self.batches_per_pass, MOST_BATCHES + 1)))
        elif self.trainer is None or self.trainer.max_steps < 1:
            raise InputError("the length of the run is not given; set data.passes or trainer.max_steps")
        else:
            total = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        if total > MOST_BATCHES:
            raise InputError(f"the run would be longer than {MOST_BATCHES:,} batches; lower its length")
        return total

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the whole run that starts at the trainer's position."""
        if self.trainer is None:
            raise InputError("a training loader belongs to a run; pass the data module to a Trainer")
        return self._loader(self.training_samples(), self._training_batches(Position.of(self.trainer)))

    def _training_batches(self, position: Position) -> Sampler[Any]:
        return TrainingBatches(self._global_batches(), self.total_batches, position)

    def _global_batches(self) -> GlobalBatches:
        return GlobalBatches(len(self.training_samples()), self.batch_size, self.seed, self._rank, self._world_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return a loader that sees each validation sample once."""
        return self._evaluation_loader(self.validation_samples())

    def test_dataloader(self) -> DataLoader[Any]:
        """Return a loader that sees each test sample once."""
        return self._evaluation_loader(self.test_samples())

    def _evaluation_loader(self, samples: Samples) -> DataLoader[Any]:
        batches = EvaluationBatches(len(samples), self.batch_size, self._rank, self._world_size)
        return self._loader(samples, batches)

    def _loader(self, samples: Samples, batches: Sampler[Any]) -> DataLoader[Any]:
        return DataLoader(
            samples,  # type: ignore[arg-type]  # Samples has what a Dataset needs: length and items
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=shield_worker if self.num_workers else None,
            pin_memory=self._on_cuda,
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

"""What all data modules of images share: classes, normalisation, augmented parts, images to predict on."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import ExactDataModule, Samples
from mambarium.platform.data.core.known_facts import Facts, shortened
from mambarium.platform.data.core.samples import BrokenPolicy
from mambarium.platform.data.images.decoding import IntensityRange
from mambarium.platform.data.images.equal_images import equal_images
from mambarium.platform.data.images.image_files import find_images
from mambarium.platform.data.images.image_samples import Normalization
from mambarium.platform.data.images.intensity import ImageReader, check_range, images_to_measure, measured_range
from mambarium.tasks.predictions import ImagesToPredict


class ImageData(ExactDataModule):
    """Images with classes, augmented by torchvision's v2 transforms.

    A subclass defines `read_splits`, `augmented`, `prediction_images`, `prediction_collate` and `collate`, and
    `read_class_names` if the classes are not given.

    Args:
        class_names: One name per class; None: the data says them.
        train_transforms: Applied to training images.
        eval_transforms: Applied to validation, test and prediction images.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        intensity_range: What is black and what is white in images of more than 8 bits; None: what the training images
            use, as `measured_range` finds it, or the checkpoint that was restored says.
        broken: Whether a sample that can't be read ends the run ("raise") or is noted and passed over ("skip").
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        class_names: Sequence[str] | None,
        train_transforms: Sequence[Transform],
        eval_transforms: Sequence[Transform],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        intensity_range: tuple[float, float] | None,
        broken: BrokenPolicy,
        batch_size: int,
        passes: float | None,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, passes=passes, num_workers=num_workers, seed=seed)
        if not min(std) > 0:
            raise InputError(f"data.std is {list(std)}: give numbers above 0")
        self._given_class_names = None if class_names is None else list(class_names)
        self.normalization = Normalization(mean, std)
        check_range(intensity_range)
        self.reader = ImageReader(intensity_range)
        self._configured_range = intensity_range
        self._range_is_known = intensity_range is not None
        self.predict_path: str | None = None
        """Folder (or file) of images that `predict_dataloader` reads."""
        self._broken: BrokenPolicy = broken
        self._train_transforms = list(train_transforms)
        self._eval_transforms = list(eval_transforms)
        self._parts_read: dict[str, Samples] = {}

    @property
    def class_names(self) -> list[str]:
        """One name per class; class numbers run from 0."""
        return self.fact("class_names")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def read_class_names(self) -> list[str]:
        """Reads the name of each class from the data."""
        raise NotImplementedError(f"{type(self).__name__} neither gives its classes nor reads them")

    @property
    def facts_need_reading(self) -> bool:
        """Whether the classes are not given."""
        return self._given_class_names is None

    def read_facts(self) -> Facts:
        """Finds out the classes."""
        given = self._given_class_names
        return {"class_names": self.read_class_names() if given is None else given}

    def settings(self) -> dict[str, Any]:
        """The normalisation."""
        return {"mean": list(self.normalization.mean), "std": list(self.normalization.std)}

    @abstractmethod
    def read_splits(self) -> Any:
        """Finds the images to train on, validate on and test on."""

    @cached_property
    def splits(self) -> Any:
        """The images to train on, validate on and test on, as `train`, `val` and `test`.

        Raises:
            InputError: If the data can't be read, or its classes are not those of a restored checkpoint.
        """
        _ = self.found_facts
        splits = self.read_splits()
        if not self._range_is_known:
            self._use_range(measured_range(images_to_measure(splits.train)))
        return splits

    def _use_range(self, intensity_range: IntensityRange | None) -> None:
        self.reader.intensity_range = intensity_range
        self._range_is_known = True

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: classes, normalisation and, once it is known, the range of intensities."""
        known = self.reader.intensity_range
        intensity_range = {"intensity_range": None if known is None else list(known)}
        return {**super().state_dict(), **(intensity_range if self._range_is_known else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes classes over from a checkpoint, and the range of intensities unless it is configured."""
        facts = dict(state_dict)
        if "intensity_range" in facts:
            restored = facts.pop("intensity_range")
            if self._configured_range is None:
                self._use_range(None if restored is None else (restored[0], restored[1]))
        super().load_state_dict(facts)

    @abstractmethod
    def augmented(self, source: Any, transforms: Sequence[Transform], training: bool) -> Samples:
        """Returns the data set of a source and its transforms.

        Args:
            source: One of the `splits`.
            transforms: Applied in order.
            training: Whether it is trained on, rather than evaluated.
        """

    @abstractmethod
    def prediction_images(self, files: Sequence[Path], transforms: Sequence[Transform]) -> Any:
        """Returns the data set of image files to predict on."""

    @property
    @abstractmethod
    def prediction_collate(self) -> Callable[[list[Any]], Any]:
        """What makes a batch of such images."""

    @cached_property
    def _shared_images(self) -> list[str]:
        parts = {"training": self.splits.train, "validation": self.splits.val}
        if self.splits.test is not self.splits.val:
            parts["test"] = self.splits.test
        return equal_images(parts)

    def images_to_predict(self, images: Path) -> ImagesToPredict:
        """Have `predict_dataloader` read a folder of images (or a file), and say what is known of them."""
        self.predict_path = str(images)
        root = images.expanduser()
        return ImagesToPredict(
            root=root if root.is_dir() else root.parent,
            files=find_images(images),
            class_names=self.class_names,
            read=lambda file: self.reader.read(file, str(file)),
        )

    def class_counts(self, source: Any) -> Sequence[int] | None:
        """Counts how often each class occurs in one of the `splits`; None: that would take reading all of it."""
        return None

    def training_counts(self) -> tuple[Sequence[int], str] | None:
        """Counts training examples.

        Returns:
            How many examples of each class were found, and what was looked for and where; None where samples are
            generated.
        """
        counts = self.class_counts(self.splits.train)
        return None if counts is None else (counts, "training image")

    def description(self) -> list[str]:
        """Returns the classes with how often they occur, which don't, and what is odd about the images."""
        splits = [self.splits.train, self.splits.val]
        if self.splits.test is not self.splits.val:
            splits.append(self.splits.test)
        counts = [of_split for split in splits if (of_split := self.class_counts(split)) is not None]
        names = self.class_names
        if counts:
            names = [f"{name} {'/'.join(map(str, many))}" for name, *many in zip(names, *counts, strict=True)]
        parts = f" (training/validation{'/test' if len(splits) > 2 else ''})" if counts else ""
        lines = [f"classes  {self.num_classes:,}{parts}: {shortened(names)}"]
        if (found := self.training_counts()) is not None:
            counted, example = found
            absent = [name for name, count in zip(self.class_names, counted, strict=True) if not count]
            if absent:
                missing = f"{len(absent):,} of {self.num_classes:,} classes without a {example}"
                lines.append(f"note     {missing}: {shortened(absent)}")
        if (known := self.reader.intensity_range) is not None:
            lines.append(f"depth    more than 8 bits: {known[0]:g} is black, {known[1]:g} is white")
        return [*lines, *(f"note     {sentence}" for sentence in self._shared_images)]

    def training_samples(self) -> Samples:
        """Returns the augmented training images."""
        return self._part("train")

    def validation_samples(self) -> Samples:
        """Returns the validation images."""
        return self._part("val")

    def test_samples(self) -> Samples:
        """Returns the test images."""
        return self._part("test")

    def _part(self, name: str) -> Samples:
        if name == "test" and self.splits.test is self.splits.val:
            name = "val"
        if name not in self._parts_read:
            training = name == "train"
            transforms = self._train_transforms if training else self._eval_transforms
            self._parts_read[name] = self.augmented(getattr(self.splits, name), transforms, training)
        return self._parts_read[name]

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns a loader over the images of `predict_path`; each process reads its share of the files.

        Raises:
            InputError: If `predict_path` is not set, does not exist or has no images.
        """
        if self.predict_path is None:
            raise InputError("no images to predict on: name a folder of images")
        files = find_images(Path(self.predict_path), tell=True)[self._rank :: self._world_size]
        return DataLoader(
            self.prediction_images(files, self._eval_transforms),
            batch_size=max(1, self.batch_size // self._world_size),
            collate_fn=self.prediction_collate,
            num_workers=self.num_workers,
            pin_memory=self._on_cuda,
        )

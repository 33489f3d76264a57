"""What all data modules of images share: classes, normalisation, augmented parts, images to predict on."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import BatchOptions, ExactDataModule, Part, Samples
from mambarium.platform.data.core.known_facts import Facts
from mambarium.platform.data.core.messages import shortened
from mambarium.platform.data.core.samples import BrokenPolicy, OmittingBroken, ReplacingBroken
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.decoding import IntensityRange
from mambarium.platform.data.images.equal_images import equal_images
from mambarium.platform.data.images.image_files import find_images
from mambarium.platform.data.images.image_samples import Normalization, UnlabelledImages
from mambarium.platform.data.images.intensity import ImageReader, images_to_measure, measured_range
from mambarium.tasks.predictions import ImagesToPredict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images per channel, what published vision models expect."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's training images per channel."""


class ImageOptions(BatchOptions, total=False):
    """Options of `ImageData` that all its data modules of stored images have."""

    train_transforms: list[Transform] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    intensity_range: tuple[float, float] | None
    broken: BrokenPolicy


class ImageData(ExactDataModule):
    """Images with classes, augmented by torchvision's v2 transforms.

    A subclass defines `read_splits`, `augmented`, `collate` and `prediction_collate`, and `read_class_names` if the
    classes are not given.

    Args:
        train_transforms: Applied to training images.
        eval_transforms: Applied to validation, test and prediction images.
        class_names: One name per class; None: the data says them.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        intensity_range: What is black and what is white in images of more than 8 bits, in all of them alike; None: 0
            and the highest number of as few bits as hold the training images (of up to 256, but for a thousandth of
            their pixels), or from the lowest where all lie far from 0. Images of 8 bits stay as they are.
        broken: Whether a file that is missing or can't be read, or does not fit its annotations, ends the run (raise)
            or is noted and passed over (skip): then the next one is trained on in its place, and evaluation images are
            all read once at the start.
        options: Those of `ExactDataModule`.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("class_names",)

    def __init__(
        self,
        train_transforms: Sequence[Transform],
        eval_transforms: Sequence[Transform],
        class_names: Sequence[str] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        intensity_range: tuple[float, float] | None = None,
        broken: BrokenPolicy = "raise",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not min(std) > 0:
            raise InputError(f"data.std is {list(std)}; give numbers above 0")
        self._given_class_names = None if class_names is None else list(class_names)
        self.normalization = Normalization(mean, std)
        if intensity_range is not None and not intensity_range[0] < intensity_range[1]:
            raise InputError(f"data.intensity_range is {list(intensity_range)}; give the lower number first")
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
        """Read the name of each class from the data."""
        raise NotImplementedError(f"{type(self).__name__} neither gives its classes nor reads them")

    @property
    def facts_need_reading(self) -> bool:
        return self._given_class_names is None

    def read_facts(self) -> Facts:
        given = self._given_class_names
        return {"class_names": self.read_class_names() if given is None else given}

    def settings(self) -> dict[str, Any]:
        return {"mean": list(self.normalization.mean), "std": list(self.normalization.std)}

    @abstractmethod
    def read_splits(self) -> Splits[Any]:
        """Find the images to train on, validate on and test on."""

    @cached_property
    def splits(self) -> Splits[Any]:
        """The images to train on, validate on and test on, once `found_facts` are known."""
        _ = self.found_facts
        splits = self.read_splits()
        if not self._range_is_known:
            self._use_range(measured_range(images_to_measure(splits.train)))
        return splits

    def _use_range(self, intensity_range: IntensityRange | None) -> None:
        self.reader.intensity_range = intensity_range
        self._range_is_known = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: classes, normalisation and, once it is known, the range of intensities."""
        known = self.reader.intensity_range
        intensity_range = {"intensity_range": None if known is None else list(known)}
        return {**super().state_dict(), **(intensity_range if self._range_is_known else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take classes over from a checkpoint, and the range of intensities unless it is configured."""
        facts = dict(state_dict)
        if "intensity_range" in facts:
            restored = facts.pop("intensity_range")
            if self._configured_range is None:
                self._use_range(None if restored is None else (restored[0], restored[1]))
        super().load_state_dict(facts)

    @abstractmethod
    def augmented(self, source: Any, transforms: Sequence[Transform], training: bool) -> Samples:
        """Return the data set of one of the `splits`, its broken samples taken out if need be, and of transforms.

        `training` says whether it is trained on, rather than evaluated.
        """

    @property
    @abstractmethod
    def prediction_collate(self) -> Callable[[list[Any]], Any]:
        """What makes a batch of such images."""

    @cached_property
    def _shared_images(self) -> list[str]:
        return equal_images(self._different_parts)

    @property
    def _different_parts(self) -> dict[str, Any]:
        parts = {"training": self.splits.train, "validation": self.splits.val}
        return parts if self.splits.test is self.splits.val else {**parts, "test": self.splits.test}

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
        """Count how often each class occurs in one of the `splits`; None: that would take reading all of it."""
        return None

    def training_counts(self) -> tuple[Sequence[int], str] | None:
        """Count the training examples of each class, and say of what and where; None where samples are generated."""
        counts = self.class_counts(self.splits.train)
        return None if counts is None else (counts, "training image")

    def description(self) -> list[str]:
        """Return the classes with how often they occur, which don't, and what is odd about the images."""
        parts = self._different_parts
        counts = [of_part for part in parts.values() if (of_part := self.class_counts(part)) is not None]
        names = self.class_names
        if counts:
            names = [f"{name} {'/'.join(map(str, many))}" for name, *many in zip(names, *counts, strict=True)]
        counted_in = f" ({'/'.join(parts)})" if counts else ""
        lines = [f"classes  {self.num_classes:,}{counted_in}: {shortened(names)}"]
        if (found := self.training_counts()) is not None:
            counted, example = found
            absent = [name for name, count in zip(self.class_names, counted, strict=True) if not count]
            if absent:
                missing = f"{len(absent):,} of {self.num_classes:,} classes without a {example}"
                lines.append(f"note     {missing}: {shortened(absent)}")
        if (known := self.reader.intensity_range) is not None:
            lines.append(f"depth    more than 8 bits: {known[0]:g} is black, {known[1]:g} is white")
        return [*lines, *(f"note     {sentence}" for sentence in self._shared_images)]

    def samples(self, part: Part) -> Samples:
        if part == "test" and self.splits.test is self.splits.val:
            part = "val"
        if part not in self._parts_read:
            training = part == "train"
            transforms = self._train_transforms if training else self._eval_transforms
            source = getattr(self.splits, part)
            if self._broken == "skip":
                source = (ReplacingBroken if training else OmittingBroken)(source)
            self._parts_read[part] = self.augmented(source, transforms, training)
        return self._parts_read[part]

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return a loader over the images of `predict_path`; each process reads its share of the files.

        Raises InputError if `predict_path` is not set, does not exist or has no images.
        """
        if self.predict_path is None:
            raise InputError("no images to predict on; name a folder of images")
        files = find_images(Path(self.predict_path), tell=True)[self._rank :: self._world_size]
        return DataLoader(
            UnlabelledImages(files, self._eval_transforms, self.reader),
            batch_size=max(1, self.batch_size // self._world_size),
            collate_fn=self.prediction_collate,
            num_workers=self.num_workers,
            pin_memory=self._on_cuda,
        )

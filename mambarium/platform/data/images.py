"""The data module of image classification; where the images come from is left to its subclasses."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.augmentation import SampleSource
from mambarium.platform.data.broken_samples import BrokenPolicy, OmittingBroken, ReplacingBroken
from mambarium.platform.data.image_files import find_images
from mambarium.platform.data.image_samples import (
    AugmentedImages,
    CollateForPrediction,
    CollateImages,
    LabelledImages,
    NamedImage,
    Normalization,
    UnlabelledImages,
)
from mambarium.platform.data.image_sources import ImageSplits, cached_if_small
from mambarium.platform.data.module import ExactDataModule

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images per channel, what published vision models expect."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's training images per channel."""


class ClassificationImages(ExactDataModule):
    """Labelled images, augmented by torchvision's v2 transforms.

    Transforms see uint8 tensors (3, height, width) and leave uint8, or floats in 0 to 1, of height and width
    `image_size`; normalisation follows, on the whole batch. mixup and cutmix belong to the task.

    Args:
        class_names: One name per class.
        image_size: Height and width of the images that the model sees.
        train_transforms: Applied to training images; None: shorter side to `image_size`, random crop, random
            flip.
        eval_transforms: Applied to validation, test and prediction images; None: shorter side to
            `image_size`, centre crop.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        cache: Whether decoded images are kept in memory; None: if they are few.
        broken: Whether an image that can't be read ends the run (raise) or is noted and passed over (skip): then the
            next one is trained on in its place, evaluation images are all read once at the start, and none is kept in
            memory.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_size: int,
        train_transforms: list[Transform] | None,
        eval_transforms: list[Transform] | None,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        cache: bool | None,
        broken: BrokenPolicy,
        batch_size: int,
        passes: float | None,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, passes=passes, num_workers=num_workers, seed=seed)
        if image_size < 1:
            raise InputError(f"data.image_size is {image_size}: give 1 or more")
        if not min(std) > 0:
            raise InputError(f"data.std is {list(std)}: give numbers above 0")
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.image_size = image_size
        self.normalization = Normalization(mean, std)
        self.predict_path: str | None = None
        """Folder (or file) of images that `predict_dataloader` reads."""
        if cache and broken == "skip":
            raise InputError("data.cache and data.broken skip exclude each other: leave one of them away")
        self.cache = cache
        self._broken: BrokenPolicy = broken
        self._samples: dict[str, AugmentedImages] = {}
        to_shorter_side = v2.Resize(image_size, antialias=True)
        self._train_transforms = (
            [to_shorter_side, v2.RandomCrop(image_size), v2.RandomHorizontalFlip()]
            if train_transforms is None
            else train_transforms
        )
        self._eval_transforms = (
            [to_shorter_side, v2.CenterCrop(image_size)] if eval_transforms is None else eval_transforms
        )

    @property
    @abstractmethod
    def splits(self) -> ImageSplits:
        """The images to train on, validate on and test on."""

    def training_samples(self) -> AugmentedImages:
        """Returns the augmented training images."""
        return self._split("train")

    def validation_samples(self) -> AugmentedImages:
        """Returns the validation images."""
        return self._split("val")

    def test_samples(self) -> AugmentedImages:
        """Returns the test images."""
        return self._split("test")

    def _split(self, name: str) -> AugmentedImages:
        if name == "test" and self.splits.test is self.splits.val:
            name = "val"
        if name not in self._samples:
            training = name == "train"
            source: SampleSource[NamedImage]
            if self._broken == "skip":
                images = LabelledImages(getattr(self.splits, name))
                source = ReplacingBroken(images) if training else OmittingBroken(images)
            else:
                source = LabelledImages(cached_if_small(getattr(self.splits, name), self.cache))
            transforms = self._train_transforms if training else self._eval_transforms
            self._samples[name] = AugmentedImages(source, transforms, self.image_size, self.seed)
        return self._samples[name]

    @property
    def collate(self) -> CollateImages:
        """Makes an `ImageBatch`."""
        return CollateImages(self.normalization)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns a loader over the images of `predict_path`; each process reads its share of the files.

        Raises:
            InputError: If `predict_path` is not set, does not exist or has no images.
        """
        if self.predict_path is None:
            raise InputError("no images to predict on: name a folder of images")
        files = find_images(Path(self.predict_path))[self._rank :: self._world_size]
        return DataLoader(
            UnlabelledImages(files, self._eval_transforms, self.image_size),  # type: ignore[arg-type]  # has what a Dataset needs: length and items
            batch_size=max(1, self.batch_size // self._world_size),
            collate_fn=CollateForPrediction(self.normalization),
            num_workers=self.num_workers,
            pin_memory=self._on_cuda,
        )

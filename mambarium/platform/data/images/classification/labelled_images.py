"""The data module of image classification; where the images come from is left to its subclasses."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import Part, Samples
from mambarium.platform.data.core.samples import BrokenPolicy, OmittingBroken, ReplacingBroken
from mambarium.platform.data.images.augmentation import SampleSource
from mambarium.platform.data.images.classification.labelled_sources import ImageSource, ImageSplits, cached_if_small
from mambarium.platform.data.images.image_data import ImageData
from mambarium.platform.data.images.image_samples import (
    AugmentedImages,
    CollateForPrediction,
    CollateImages,
    LabelledImage,
    LabelledImages,
    NamedImage,
    UnlabelledImages,
)
from mambarium.tasks.classification.class_predictions import draw_classified

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images per channel, what published vision models expect."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's training images per channel."""


class ClassificationImages(ImageData):
    """Labelled images, augmented by torchvision's v2 transforms.

    Transforms see uint8 tensors (3, height, width) and leave uint8, or floats in 0 to 1, of height and width
    `image_size`; normalisation follows, on the whole batch. mixup and cutmix belong to the task.

    Args:
        class_names: One name per class; None: the data says them.
        image_size: Height and width of the images that the model sees.
        train_transforms: Applied to training images; None: shorter side to `image_size`, random crop, random
            flip.
        eval_transforms: Applied to validation, test and prediction images; None: shorter side to
            `image_size`, centre crop.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        intensity_range: What is black and what is white in images of more than 8 bits; None: what the training images
            use.
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
        class_names: Sequence[str] | None,
        image_size: int,
        train_transforms: list[Transform] | None,
        eval_transforms: list[Transform] | None,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        intensity_range: tuple[float, float] | None,
        cache: bool | None,
        broken: BrokenPolicy,
        batch_size: int,
        passes: float | None,
        num_workers: int,
        seed: int,
    ) -> None:
        if image_size < 1:
            raise InputError(f"data.image_size is {image_size}: give 1 or more")
        if cache and broken == "skip":
            raise InputError("data.cache and data.broken skip exclude each other: leave one of them out")
        to_shorter_side = v2.Resize(image_size, antialias=True)
        if train_transforms is None:
            train_transforms = [to_shorter_side, v2.RandomCrop(image_size), v2.RandomHorizontalFlip()]
        if eval_transforms is None:
            eval_transforms = [to_shorter_side, v2.CenterCrop(image_size)]
        super().__init__(
            class_names=class_names,
            train_transforms=train_transforms,
            eval_transforms=eval_transforms,
            mean=mean,
            std=std,
            intensity_range=intensity_range,
            broken=broken,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )
        self.image_size = image_size
        self.cache = cache

    def settings(self) -> dict[str, Any]:
        """Normalisation and size of the images."""
        return {**super().settings(), "image_size": self.image_size}

    @abstractmethod
    def read_splits(self) -> ImageSplits:
        """Finds the images to train on, validate on and test on."""

    def augmented(self, source: ImageSource, transforms: Sequence[Transform], training: bool) -> AugmentedImages:
        """Returns the data set of a source and its transforms."""
        images: SampleSource[NamedImage]
        if self._broken == "skip":
            images = (ReplacingBroken if training else OmittingBroken)(LabelledImages(source))
        else:
            images = LabelledImages(cached_if_small(source, self.cache))
        return AugmentedImages(images, transforms, self.image_size, self.seed)

    def samples_to_show(self, part: Part) -> Samples:
        self.cache = False  # a few samples don't pay for decoding all
        return super().samples_to_show(part)

    def draw_sample(self, sample: LabelledImage) -> Tensor:
        return draw_classified(sample.image, self.class_names[sample.label])

    def class_counts(self, source: ImageSource) -> list[int]:
        """Counts the images of each class."""
        return np.bincount(source.labels, minlength=self.num_classes).tolist()

    @property
    def collate(self) -> CollateImages:
        """Makes an `ImageBatch`."""
        return CollateImages(self.normalization)

    def prediction_images(self, files: Sequence[Path], transforms: Sequence[Transform]) -> UnlabelledImages:
        """Returns the data set of image files to predict on."""
        return UnlabelledImages(files, transforms, self.image_size, self.reader)

    @property
    def prediction_collate(self) -> CollateForPrediction:
        """Makes a `PredictionBatch`."""
        return CollateForPrediction(self.normalization)

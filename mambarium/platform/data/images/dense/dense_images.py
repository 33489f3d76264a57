"""What data modules of detection and of segmentation share: images of any size, annotated and augmented together."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import BrokenPolicy, OmittingBroken, ReplacingBroken
from mambarium.platform.data.images.augmentation import AugmentedSamples, SampleSource
from mambarium.platform.data.images.dense.prediction_images import CollateForPadding, UnannotatedImages
from mambarium.platform.data.images.image_data import ImageData

Sample = TypeVar("Sample")


class Splits(NamedTuple, Generic[Sample]):
    """The three parts of a set of annotated images; validation and test may be the same part."""

    train: SampleSource[Sample]
    val: SampleSource[Sample]
    test: SampleSource[Sample]


class DenseImages(ImageData, Generic[Sample]):
    """Annotated images, augmented together with their annotations by torchvision's v2 transforms.

    Images keep the sizes that the transforms leave; a batch pads them. Normalisation comes before the padding, so
    padding is zero.

    A subclass defines `read_splits`, `annotated` and `collate`, and `read_class_names` if the classes are not given.

    Args:
        class_names: One name per class; None: the data says them.
        train_transforms: Applied to training images.
        eval_transforms: Applied to validation, test and prediction images.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        intensity_range: What is black and what is white in images of more than 8 bits; None: what the training images
            use.
        size_multiple: What height and width of a batch are padded to a multiple of.
        broken: Whether a sample that can't be read ends the run ("raise") or is noted and passed over ("skip"): then
            the next one is trained on in its place; evaluation samples are all read once at the start to leave it out.
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
        size_multiple: int,
        broken: BrokenPolicy,
        batch_size: int,
        passes: float | None,
        num_workers: int,
        seed: int,
    ) -> None:
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
        if size_multiple < 1:
            raise InputError(f"data.size_multiple is {size_multiple}: give 1 or more")
        self.size_multiple = size_multiple

    @abstractmethod
    def read_splits(self) -> Splits[Sample]:
        """Finds the images to train on, validate on and test on."""

    @abstractmethod
    def annotated(
        self, source: SampleSource[Sample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[Sample]:
        """Returns the data set of a source and its transforms.

        Args:
            source: The images.
            transforms: Applied in order.
            training: Whether it is trained on, rather than evaluated.
        """

    def augmented(
        self, source: SampleSource[Sample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[Sample]:
        """Returns the data set of a source and its transforms, broken samples passed over if that is asked for."""
        if self._broken == "skip":
            source = ReplacingBroken(source) if training else OmittingBroken(source)
        return self.annotated(source, transforms, training)

    def prediction_images(self, files: Sequence[Path], transforms: Sequence[Transform]) -> UnannotatedImages:
        """Returns the data set of image files to predict on."""
        return UnannotatedImages(files, transforms, self.reader)

    @property
    def prediction_collate(self) -> CollateForPadding:
        """Makes a `PaddedPredictionBatch`."""
        return CollateForPadding(self.normalization, self.size_multiple)

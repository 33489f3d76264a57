"""What data modules of detection and of segmentation share: images of any size, annotated and augmented together."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.augmentation import AugmentedSamples, SampleSource
from mambarium.platform.data.broken_samples import BrokenPolicy, OmittingBroken, ReplacingBroken
from mambarium.platform.data.image_files import find_images
from mambarium.platform.data.image_samples import Normalization
from mambarium.platform.data.module import ExactDataModule
from mambarium.platform.data.prediction_images import CollateForPadding, UnannotatedImages

Sample = TypeVar("Sample")


class Splits(NamedTuple, Generic[Sample]):
    """The three parts of a set of annotated images; validation and test may be the same part."""

    train: SampleSource[Sample]
    val: SampleSource[Sample]
    test: SampleSource[Sample]


class DenseImages(ExactDataModule, Generic[Sample]):
    """Annotated images, augmented together with their annotations by torchvision's v2 transforms.

    Images keep the sizes that the transforms leave; a batch pads them. Normalisation comes before the padding, so
    padding is zero.

    A subclass defines `splits`, `augmented` and `collate`.

    Args:
        class_names: One name per class.
        train_transforms: Applied to training images.
        eval_transforms: Applied to validation and test images.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        size_multiple: What height and width of a batch are padded to a multiple of.
        broken: Whether a sample that can't be read ends the run ("raise") or is noted and passed over ("skip"): then
            the next one is trained on in its place; evaluation samples are all read once at the start to leave it out.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.

    Attributes:
        num_classes: Number of classes; class numbers run from 0.
        class_names: One name per class.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        train_transforms: Sequence[Transform],
        eval_transforms: Sequence[Transform],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        size_multiple: int,
        broken: BrokenPolicy,
        batch_size: int,
        passes: float | None,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, passes=passes, num_workers=num_workers, seed=seed)
        if not min(std) > 0:
            raise InputError(f"data.std is {list(std)}: give numbers above 0")
        if size_multiple < 1:
            raise InputError(f"data.size_multiple is {size_multiple}: give 1 or more")
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.normalization = Normalization(mean, std)
        self.size_multiple = size_multiple
        self.predict_path: str | None = None
        """Folder (or file) of images that `predict_dataloader` reads."""
        self._broken: BrokenPolicy = broken
        self._train_transforms = list(train_transforms)
        self._eval_transforms = list(eval_transforms)
        self._samples: dict[str, AugmentedSamples[Sample]] = {}

    @property
    @abstractmethod
    def splits(self) -> Splits[Sample]:
        """The images to train on, validate on and test on."""

    @abstractmethod
    def augmented(
        self, source: SampleSource[Sample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[Sample]:
        """Returns the data set of a source and its transforms.

        Args:
            source: The images.
            transforms: Applied in order.
            training: Whether it is trained on, rather than evaluated.
        """

    def training_samples(self) -> AugmentedSamples[Sample]:
        """Returns the augmented training images."""
        return self._split("train")

    def validation_samples(self) -> AugmentedSamples[Sample]:
        """Returns the validation images."""
        return self._split("val")

    def test_samples(self) -> AugmentedSamples[Sample]:
        """Returns the test images."""
        return self._split("test")

    def _split(self, name: str) -> AugmentedSamples[Sample]:
        if name == "test" and self.splits.test is self.splits.val:
            name = "val"
        if name not in self._samples:
            training = name == "train"
            transforms = self._train_transforms if training else self._eval_transforms
            source: SampleSource[Sample] = getattr(self.splits, name)
            if self._broken == "skip":
                source = ReplacingBroken(source) if training else OmittingBroken(source)
            self._samples[name] = self.augmented(source, transforms, training)
        return self._samples[name]

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns a loader over the images of `predict_path`; each process reads its share of the files.

        Raises:
            InputError: If `predict_path` is not set, does not exist or has no images.
        """
        if self.predict_path is None:
            raise InputError("no images to predict on: name a folder of images")
        files = find_images(Path(self.predict_path))[self._rank :: self._world_size]
        return DataLoader(
            UnannotatedImages(files, self._eval_transforms),  # type: ignore[arg-type]  # has what a Dataset needs: length and items
            batch_size=max(1, self.batch_size // self._world_size),
            collate_fn=CollateForPadding(self.normalization, self.size_multiple),
            num_workers=self.num_workers,
            pin_memory=self._on_cuda,
        )

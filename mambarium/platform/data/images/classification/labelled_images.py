"""The data module of image classification; where the images come from is left to its subclasses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import Part, Samples
from mambarium.platform.data.core.samples import BrokenPolicy, SampleError
from mambarium.platform.data.images.classification.labelled_sources import LabelledSource, NamedImage, cached_if_small
from mambarium.platform.data.images.image_data import ImageData, ImageOptions
from mambarium.platform.data.images.image_samples import AugmentedSamples, Normalization, UnlabelledImage, transformed
from mambarium.tasks.batches import ImageBatch
from mambarium.tasks.classification.class_predictions import draw_classified


class LabelledImage(NamedTuple):
    """One sample: image (3, height, width) as the transforms leave it, and its class number."""

    image: Tensor
    label: int


class ClassificationOptions(ImageOptions, total=False):
    """Options of `ClassificationImages` that all its data modules of stored images have."""

    image_size: int
    eval_transforms: list[Transform] | None
    cache: bool | None


class ClassificationImages(ImageData):
    """Labelled images, augmented by torchvision's v2 transforms.

    Transforms see uint8 tensors (3, height, width) and leave uint8, or floats in 0 to 1, of height and width
    `image_size`; normalisation follows, on the whole batch. mixup and cutmix belong to the task.

    Args:
        image_size: Height and width of the images that the model sees.
        train_transforms: torchvision v2 transforms of training images, which see uint8 tensors (3, height,
            width); None: shorter side to `image_size`, random crop, random horizontal flip.
        eval_transforms: torchvision v2 transforms of validation, test and prediction images; None: shorter
            side to `image_size`, centre crop.
        cache: Whether decoded images are kept in memory, not with `broken` skip; None: if they take up to 512 MiB.
        options: Those of `ImageData`.

    Raises:
        InputError: If the size is below 1, or broken images are to be skipped and kept in memory.
    """

    def __init__(
        self,
        image_size: int = 224,
        train_transforms: list[Transform] | None = None,
        eval_transforms: list[Transform] | None = None,
        cache: bool | None = None,
        broken: BrokenPolicy = "raise",
        batch_size: int = 64,
        **options: Any,
    ) -> None:
        if image_size < 1:
            raise InputError(f"data.image_size is {image_size}; give 1 or more")
        if cache and broken == "skip":
            raise InputError("data.cache and data.broken skip exclude each other; leave one of them out")
        to_shorter_side = v2.Resize(image_size, antialias=True)
        if train_transforms is None:
            train_transforms = [to_shorter_side, v2.RandomCrop(image_size), v2.RandomHorizontalFlip()]
        if eval_transforms is None:
            eval_transforms = [to_shorter_side, v2.CenterCrop(image_size)]
        super().__init__(train_transforms, eval_transforms, broken=broken, batch_size=batch_size, **options)
        self.image_size = image_size
        self.cache = cache

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "image_size": self.image_size}

    def augmented(self, source: Any, transforms: Sequence[Transform], training: bool) -> AugmentedSamples[NamedImage]:
        if self._broken == "raise":
            source = cached_if_small(source, self.cache)
        of_images = [OfImage(transform) for transform in transforms]
        return AugmentedSamples(source, of_images, self.seed, finish=FixedSize(self.image_size))

    def samples_to_show(self, part: Part) -> Samples:
        self.cache = False  # a few samples don't pay for decoding all
        return super().samples_to_show(part)

    def draw_sample(self, sample: LabelledImage) -> Tensor:
        return draw_classified(sample.image, self.class_names[sample.label])

    def class_counts(self, source: LabelledSource) -> list[int]:
        return np.bincount(source.labels, minlength=self.num_classes).tolist()

    @property
    def collate(self) -> "CollateImages":
        return CollateImages(self.normalization)

    @property
    def prediction_collate(self) -> "CollateForPrediction":
        return CollateForPrediction(self.normalization, self.image_size)


@dataclass(frozen=True)
class OfImage:
    """Applies a transform to the image of a sample alone."""

    transform: Callable[[Tensor], Tensor]

    def __call__(self, sample: NamedImage) -> NamedImage:
        return sample._replace(image=transformed(sample.image, self.transform, sample.name))


@dataclass(frozen=True)
class FixedSize:
    """Makes a sample of an image whose height and width the transforms have brought to `image_size`."""

    image_size: int

    def __call__(self, sample: NamedImage) -> LabelledImage:
        _require_size(sample.image, self.image_size, sample.name)
        return LabelledImage(sample.image, sample.label)


def _require_size(image: Tensor, image_size: int, name: str) -> None:
    if image.shape != (3, image_size, image_size):
        raise SampleError(
            f"{name}: the transforms leave {tuple(image.shape)} but data.image_size asks for "
            f"(3, {image_size}, {image_size}); end them with one that fixes the size, such as CenterCrop, or "
            "change data.image_size"
        )


@dataclass(frozen=True)
class CollateImages:
    """Makes an `ImageBatch`; normalises the whole batch at once."""

    normalization: Normalization

    def __call__(self, samples: list[LabelledImage]) -> ImageBatch:
        return ImageBatch(
            image=self.normalization(torch.stack([sample.image for sample in samples])),
            label=torch.tensor([sample.label for sample in samples]),
        )


class PredictionBatch(TypedDict):
    """Images to predict on.

    Attributes:
        image: (batch, 3, height, width), normalised floating point.
        path: The image files.
    """

    image: Tensor
    path: list[str]


@dataclass(frozen=True)
class CollateForPrediction:
    """Makes a `PredictionBatch` of images whose height and width are `image_size`."""

    normalization: Normalization
    image_size: int

    def __call__(self, samples: list[UnlabelledImage]) -> PredictionBatch:
        for sample in samples:
            _require_size(sample.image, self.image_size, sample.path)
        return PredictionBatch(
            image=self.normalization(torch.stack([sample.image for sample in samples])),
            path=[sample.path for sample in samples],
        )

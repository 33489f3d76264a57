"""The data module of detection and instance masks; where the images come from is left to its subclasses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.known_facts import Facts
from mambarium.platform.data.core.samples import SampleSource, with_files
from mambarium.platform.data.images.dense.dense_images import DenseImages
from mambarium.platform.data.images.dense.dense_transforms import ResizeShortSide
from mambarium.platform.data.images.detection.detection_samples import (
    CollateDetection,
    DetectionSample,
    removing_whole_objects,
    visible_objects,
)
from mambarium.platform.data.images.detection.object_files import AnnotatedImage, ImagesWithObjects
from mambarium.platform.data.images.detection.objects import Objects
from mambarium.platform.data.images.image_samples import AugmentedSamples
from mambarium.platform.data.images.stored_images import ImageFiles
from mambarium.tasks.detection.detection_predictions import draw_objects
from mambarium.tasks.detection.mask_encoding import encode_mask
from mambarium.tasks.predictions import ImagesToPredict


class DetectionImages(DenseImages[DetectionSample]):
    """Images with boxes, and with masks if the data has any; the arguments are those of `DenseImages`.

    In training, objects that the transforms move out of the image are left out. In evaluation every object stays, so
    no evaluation transform may move one out.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("class_names", "category_ids", "class_frequencies")

    @property
    def category_ids(self) -> list[int] | None:
        """The number that each class has in an annotation file, if it comes from one."""
        return self.fact("category_ids")

    @property
    def class_frequencies(self) -> list[str] | None:
        """For each class of data of the LVIS kind "r", "c" or "f" (rare, common, frequent); else None."""
        return self.fact("class_frequencies")

    def read_facts(self) -> Facts:
        """Find out the classes; a subclass adds what annotation files say of them beside their names."""
        return {**super().read_facts(), "category_ids": None, "class_frequencies": None}

    def class_counts(self, source: Any) -> list[int] | None:
        return source.objects.class_counts(self.num_classes) if hasattr(source, "objects") else None

    def training_counts(self) -> tuple[Sequence[int], str] | None:
        counts = self.class_counts(self.splits.train)
        return None if counts is None else (counts, "training object")

    def most_objects(self) -> tuple[int, int]:
        found = [split.objects.most_in_an_image() for split in self.splits if hasattr(split, "objects")]
        return max((most for most, _ in found), default=0), max((most for _, most in found), default=0)

    def images_to_predict(self, images: Path) -> ImagesToPredict:
        """Say beside what all images have which numbers an annotation file gives to classes and images."""
        found = super().images_to_predict(images)
        ids, source = self.image_ids(found.files) or (None, None)
        return replace(found, category_ids=self.category_ids, image_ids=ids, numbered_by=source)

    def draw_sample(self, sample: DetectionSample) -> Tensor:
        plain = {name: value.as_subclass(Tensor) for name, value in sample.items() if isinstance(value, Tensor)}
        return draw_objects(
            plain["image"], plain["boxes"], plain["labels"], plain["crowd"], plain.get("masks"), self.class_names
        )

    def image_ids(self, files: Sequence[Path]) -> tuple[list[int], str] | None:
        """Return the number of each image in an annotation file, and the file; None, as here, if none lists all."""
        return None

    def augmented(
        self, source: SampleSource[DetectionSample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[DetectionSample]:
        if training:
            return AugmentedSamples(source, removing_whole_objects(transforms), self.seed, finish=visible_objects)
        keeping = [with_original_masks, *transforms] if transforms else []
        return AugmentedSamples(source, keeping, self.seed)

    @property
    def collate(self) -> CollateDetection:
        return CollateDetection(self.normalization, self.size_multiple)


def with_original_masks(sample: DetectionSample) -> DetectionSample:
    """Keep the masks as they were read, for metrics, beside those that transforms will change."""
    if "masks" in sample:
        sample["original_masks"] = [encode_mask(mask.as_subclass(Tensor)) for mask in sample["masks"]]
    return sample


class StoredDetection(DetectionImages):
    """Images with boxes of annotation files, scaled by their shorter side.

    Args:
        short_side: Length that the shorter side of images is scaled to.
        long_side: Limit of the longer side after scaling.
        train_transforms: torchvision v2 transforms of training images with their boxes and masks, and those of
            mambarium.platform.data; None: the shorter side to `short_side`, random horizontal flip.
        options: Those of `DetectionImages`.

    Raises:
        InputError: If a length is below 1.
    """

    def __init__(
        self,
        short_side: int = 800,
        long_side: int = 1333,
        train_transforms: list[Transform] | None = None,
        **options: Any,
    ) -> None:
        resize = ResizeShortSide([short_side], long_side)
        recipe = [resize, v2.RandomHorizontalFlip()] if train_transforms is None else train_transforms
        super().__init__(train_transforms=recipe, eval_transforms=[resize], **options)

    def files_with_objects(
        self, images: Sequence[AnnotatedImage], objects: Objects, where: str, training: bool
    ) -> ImagesWithObjects:
        """Make a source of image files; arguments and errors as for `ImagesWithObjects`, and none may be missing."""
        if not images:
            raise InputError(f"{where}: lists no images")
        present = with_files(range(len(images)), [image.file for image in images], self._broken, where)
        found = [images[index] for index, _ in present]
        return ImagesWithObjects(
            ImageFiles([str(image.file) for image in found]),
            [image.image_id for image in found],
            [(image.height, image.width) for image in found],
            objects.of_images([index for index, _ in present], len(images)),
            where,
            training,
            self._broken,
            self.reader,
            [image.checked_classes for image in found],
        )

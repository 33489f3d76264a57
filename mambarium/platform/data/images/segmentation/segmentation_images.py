"""The data module of semantic segmentation; where the images come from is left to its subclasses."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import SampleSource
from mambarium.platform.data.images.dense.dense_images import DenseImages, ScaledOptions
from mambarium.platform.data.images.dense.dense_transforms import LargeScaleJitter, ResizeShortSide, WindowCrop
from mambarium.platform.data.images.image_samples import AugmentedSamples
from mambarium.platform.data.images.segmentation.mask_counts import MaskCounts, check_two_values, count_masks
from mambarium.platform.data.images.segmentation.mask_files import ImagesWithMasks, MaskDecoder
from mambarium.platform.data.images.segmentation.mask_layouts import MaskLayout, own_layout
from mambarium.platform.data.images.segmentation.segmentation_samples import (
    CollateSegmentation,
    SegmentationSample,
    without_original_mask,
)
from mambarium.tasks.segmentation.mask_predictions import draw_classes


class SegmentationImages(DenseImages[SegmentationSample]):
    """Images with a class for each pixel; the arguments are those of `DenseImages`.

    Pixels that no class counts for, padding among them, are `IGNORED_CLASS`.
    """

    @cached_property
    def _training_pixels(self) -> MaskCounts | None:
        source = self.splits.train
        return count_masks(source, self.num_classes, self._broken) if isinstance(source, ImagesWithMasks) else None

    def training_counts(self) -> tuple[Sequence[int], str] | None:
        if (counts := self._training_pixels) is None:
            return None
        source = self.splits.train
        assert isinstance(source, ImagesWithMasks)
        check_two_values(counts, self.class_names, source.decoder, self.where)
        return counts.classes, f"pixel in {counts.looked_at}"

    def draw_sample(self, sample: SegmentationSample) -> Tensor:
        image, mask = sample["image"].as_subclass(Tensor), sample["mask"].as_subclass(Tensor)
        return draw_classes(image, mask, self.class_names)

    def description(self) -> list[str]:
        """Return beside the classes how much of the masks does not count."""
        lines = super().description()
        if (counts := self._training_pixels) is not None and counts.ignored:
            share = counts.ignored / (sum(counts.classes) + counts.ignored)
            lines.append(f"ignored  {share:.1%} of the pixels in {counts.looked_at}")
        return lines

    def augmented(
        self, source: SampleSource[SegmentationSample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[SegmentationSample]:
        return AugmentedSamples(source, transforms, self.seed, finish=without_original_mask if training else None)

    @property
    def collate(self) -> CollateSegmentation:
        return CollateSegmentation(self.normalization, self.size_multiple)


class MaskOptions(ScaledOptions, total=False):
    """Options of `StoredSegmentation`."""

    class_names: list[str] | None
    mask_values: dict[int, str | None] | None
    ignored_value: int
    zero_is_ignored: bool
    crop_size: int


class StoredSegmentation(SegmentationImages):
    """Images with stored masks, scaled and cropped as the published recipes do.

    Args:
        published: What masks of a published set hold; None: the next arguments say it.
        class_names: One name per class, for masks that number the classes from 0.
        mask_values: The class of each value that a mask may hold, such as `{0: background, 255: object}`, in place of
            class_names; several values may have one class, `null` is for pixels that don't count. Classes are numbered
            in the order of their lowest values.
        ignored_value: Number of pixels that don't count, unless mask_values has it.
        zero_is_ignored: Whether 0 does not count either and class 0 of class_names has the number 1.
        short_side: Length that the shorter side of images is scaled to in evaluation; predictions are measured at the
            original size all the same.
        long_side: Limit of the longer side after scaling.
        crop_size: Side of the window that is trained on, unless train_transforms are given.
        train_transforms: torchvision v2 transforms of training images with their masks, and those of
            mambarium.platform.data; None: a random scale of 0.5 to 2, a random window of `crop_size`
            with no class above 0.75 of it, a random horizontal flip.
        options: Those of `SegmentationImages`.

    Raises:
        InputError: If a length is below 1, or the classes are not given once.
    """

    ways_to_name_classes: ClassVar[str] = "data.class_names and data.mask_values, such as {0: background, 255: object}"

    def __init__(
        self,
        published: MaskLayout | None = None,
        class_names: list[str] | None = None,
        mask_values: dict[int, str | None] | None = None,
        ignored_value: int = 255,
        zero_is_ignored: bool = False,
        short_side: int = 512,
        long_side: int = 2048,
        crop_size: int = 512,
        train_transforms: list[Transform] | None = None,
        **options: Any,
    ) -> None:
        if sum(given is not None for given in (published, class_names, mask_values)) != 1:
            raise InputError(f"give one of {self.ways_to_name_classes}")
        self.layout = published or own_layout(class_names, mask_values, ignored_value, zero_is_ignored)
        self.decoder = MaskDecoder(self.layout.classes, self.layout.ignored)
        recipe: list[Transform] = [
            LargeScaleJitter(short_side, long_side, (0.5, 2.0)),
            WindowCrop(crop_size, crop_size, max_class_share=0.75),
            v2.RandomHorizontalFlip(),
        ]
        super().__init__(
            class_names=self.layout.class_names,
            train_transforms=recipe if train_transforms is None else train_transforms,
            eval_transforms=[ResizeShortSide([short_side], long_side)],
            **options,
        )

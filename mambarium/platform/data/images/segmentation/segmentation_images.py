"""The data module of semantic segmentation; where the images come from is left to its subclasses."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor
from torchvision.transforms.v2 import Transform

from mambarium.platform.data.images.augmentation import AugmentedSamples, SampleSource
from mambarium.platform.data.images.dense.dense_images import DenseImages
from mambarium.platform.data.images.segmentation.mask_counts import (
    MaskCounts,
    StoredMasks,
    check_two_values,
    count_masks,
)
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
        return count_masks(source, self.num_classes, self._broken) if isinstance(source, StoredMasks) else None

    def training_counts(self) -> tuple[Sequence[int], str] | None:
        """Counts the pixels of each class in training masks that are stored.

        Raises:
            InputError: If the masks hold one of two classes and the ignored value alone.
        """
        if (counts := self._training_pixels) is None:
            return None
        source = self.splits.train
        assert isinstance(source, StoredMasks)
        check_two_values(counts, self.class_names, source.decoder, self.where)
        return counts.classes, f"pixel in {counts.looked_at}"

    def draw_sample(self, sample: SegmentationSample) -> Tensor:
        image, mask = sample["image"].as_subclass(Tensor), sample["mask"].as_subclass(Tensor)
        return draw_classes(image, mask, self.class_names)

    def description(self) -> list[str]:
        """Returns beside the classes how much of the masks does not count."""
        lines = super().description()
        if (counts := self._training_pixels) is not None and counts.ignored:
            share = counts.ignored / (sum(counts.classes) + counts.ignored)
            lines.append(f"ignored  {share:.1%} of the pixels in {counts.looked_at}")
        return lines

    def annotated(
        self, source: SampleSource[SegmentationSample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[SegmentationSample]:
        """Returns the data set of a source and its transforms."""
        return AugmentedSamples(source, transforms, self.seed, finish=without_original_mask if training else None)

    @property
    def collate(self) -> CollateSegmentation:
        """Makes a `SegmentationBatch`."""
        return CollateSegmentation(self.normalization, self.size_multiple)

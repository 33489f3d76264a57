"""The data module of semantic segmentation; where the images come from is left to its subclasses."""

from collections.abc import Sequence

from torchvision.transforms.v2 import Transform

from mambarium.platform.data.augmentation import AugmentedSamples, SampleSource
from mambarium.platform.data.dense_images import DenseImages
from mambarium.platform.data.segmentation_samples import (
    CollateSegmentation,
    SegmentationSample,
    without_original_mask,
)


class SegmentationImages(DenseImages[SegmentationSample]):
    """Images with a class for each pixel; the arguments are those of `DenseImages`.

    Pixels that no class counts for, padding among them, are `IGNORED_CLASS`.
    """

    def annotated(
        self, source: SampleSource[SegmentationSample], transforms: Sequence[Transform], training: bool
    ) -> AugmentedSamples[SegmentationSample]:
        """Returns the data set of a source and its transforms."""
        return AugmentedSamples(source, transforms, self.seed, finish=without_original_mask if training else None)

    @property
    def collate(self) -> CollateSegmentation:
        """Makes a `SegmentationBatch`."""
        return CollateSegmentation(self.normalization, self.size_multiple)

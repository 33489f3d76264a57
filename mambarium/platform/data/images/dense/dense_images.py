"""What data modules of detection and of segmentation share: images of any size, annotated and augmented together."""

from typing import Any, Generic

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import Sample
from mambarium.platform.data.images.dense.padded_images import CollateForPadding
from mambarium.platform.data.images.image_data import ImageData, ImageOptions


class DenseOptions(ImageOptions, total=False):
    """Options of `DenseImages` that all its data modules of stored images have."""

    size_multiple: int


class ScaledOptions(DenseOptions, total=False):
    """`DenseOptions`, and the sides that images are scaled to."""

    short_side: int
    long_side: int


class DenseImages(ImageData, Generic[Sample]):
    """Annotated images, augmented together with their annotations by torchvision's v2 transforms.

    Images keep the sizes that the transforms leave; a batch pads them. Normalisation comes before the padding, so
    padding is zero.

    A subclass defines `read_splits`, `augmented` and `collate`, and `read_class_names` if the classes are not given.

    Args:
        size_multiple: What height and width of a batch are padded to a multiple of.
        options: Those of `ImageData`.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(self, size_multiple: int = 32, batch_size: int = 16, **options: Any) -> None:
        super().__init__(batch_size=batch_size, **options)
        if size_multiple < 1:
            raise InputError(f"data.size_multiple is {size_multiple}; give 1 or more")
        self.size_multiple = size_multiple

    @property
    def prediction_collate(self) -> CollateForPadding:
        return CollateForPadding(self.normalization, self.size_multiple)

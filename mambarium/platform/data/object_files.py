"""Image files with objects, and the data module over three annotated parts of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.broken_samples import BrokenPolicy, with_files
from mambarium.platform.data.dense_transforms import ResizeShortSide
from mambarium.platform.data.detection_samples import DetectionSample
from mambarium.platform.data.intensity import ImageReader
from mambarium.platform.data.notes import note
from mambarium.platform.data.objects import ObjectRecord, ObjectTable, clean_objects, note_changes
from mambarium.platform.data.order import SampleKey


class AnnotatedImage(NamedTuple):
    """An image file and its objects as an annotation file describes them.

    Attributes:
        file: The image file.
        image_id: Its number in the data set.
        height: Height in pixels.
        width: Width in pixels.
        objects: Its objects.
        checked_classes: In data of the LVIS kind, classes known not to be in the image, and classes of which not every
            object is marked; else None.
    """

    file: Path
    image_id: int
    height: int
    width: int
    objects: list[ObjectRecord]
    checked_classes: tuple[list[int], list[int]] | None = None


class ObjectFiles:
    """A source of image files with objects, cleaned when it is made.

    Args:
        images: The images.
        where: What lists them, for messages.
        masks: Whether samples have masks.
        training: Whether images without objects are left out.
        broken: What becomes of files that are missing.
        reader: Decodes the images.

    Raises:
        InputError: If there are no images, files are missing and `broken` is "raise", or no image is left.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        where: str,
        masks: bool,
        training: bool,
        broken: BrokenPolicy,
        reader: ImageReader,
    ) -> None:
        if not images:
            raise InputError(f"{where}: lists no images")
        images = [image for image, _ in with_files(images, [image.file for image in images], broken, where)]
        changes: Counter[str] = Counter()
        objects = [clean_objects(image.objects, image.height, image.width, changes) for image in images]
        note_changes(changes, where)
        if training:
            kept = with_objects(objects, where)
            images, objects = [images[index] for index in kept], [objects[index] for index in kept]
        self._reader = reader
        self._files = [str(image.file) for image in images]
        self._checked_classes = [image.checked_classes for image in images]
        sizes = [(image.height, image.width) for image in images]
        self.objects = ObjectTable([image.image_id for image in images], sizes, objects, masks)

    def __len__(self) -> int:
        return len(self._files)

    def stored(self, index: int) -> Path:
        """Returns the file of an image."""
        return Path(self._files[index])

    def name(self, index: int) -> str:
        """Returns what an error message calls an image."""
        return self._files[index]

    def read(self, key: SampleKey) -> DetectionSample:
        """Returns an image with its objects."""
        name = self._files[key[1]]
        sample = self.objects.sample(key[1], self._reader.read(Path(name), name), name)
        if (checked := self._checked_classes[key[1]]) is not None:
            sample["negative_classes"], sample["partial_classes"] = checked
        return sample


def with_objects(objects: Sequence[Sequence[ObjectRecord]], where: str) -> list[int]:
    """Which images have an object to learn from, crowds not counted; says how many have none.

    Args:
        objects: The objects of each image.
        where: What lists them, for messages.

    Returns:
        Indices.

    Raises:
        InputError: If there is none.
    """
    kept = [index for index, of_image in enumerate(objects) if any(not item.crowd for item in of_image)]
    if not kept:
        raise InputError(f"{where}: no image has an object to learn from")
    if len(kept) < len(objects):
        note(f"{where}: left out {len(objects) - len(kept)} of {len(objects)} training images, which show no object")
    return kept


def detection_transforms(
    train_transforms: list[Transform] | None, short_side: int, long_side: int
) -> tuple[list[Transform], list[Transform]]:
    """Transforms of training and of evaluation: shorter side to a length, and in training a random flip.

    Args:
        train_transforms: The user's transforms of training images, if given.
        short_side: Length of the shorter side.
        long_side: Limit of the longer side.

    Returns:
        Transforms of training and of evaluation.

    Raises:
        InputError: If a length is below 1.
    """
    resize = ResizeShortSide([short_side], long_side)
    return [resize, v2.RandomHorizontalFlip()] if train_transforms is None else train_transforms, [resize]

"""Image files with objects, and the data module over three annotated parts of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.sample_error import SampleError
from mambarium.platform.data.core.samples import BrokenPolicy, with_files
from mambarium.platform.data.images.decoding import opened_image, shown_size
from mambarium.platform.data.images.dense.dense_transforms import ResizeShortSide
from mambarium.platform.data.images.detection.detection_samples import DetectionSample
from mambarium.platform.data.images.detection.objects import Objects, ObjectTable, clean_objects
from mambarium.platform.data.images.intensity import ImageReader


class AnnotatedImage(NamedTuple):
    """An image file as an annotation file describes it.

    Attributes:
        file: The image file.
        image_id: Its number in the data set.
        height: Height in pixels; 0: it isn't said.
        width: Width in pixels; 0: it isn't said.
        checked_classes: In data of the LVIS kind, classes known not to be in the image, and classes of which not every
            object is marked; else None.
    """

    file: Path
    image_id: int
    height: int
    width: int
    checked_classes: tuple[list[int], list[int]] | None = None


class ObjectFiles:
    """A source of image files with objects, cleaned when it is made.

    Args:
        images: The images.
        objects: Their objects.
        where: What lists them, for messages.
        training: Whether images without objects are left out.
        broken: What becomes of files that are missing.
        reader: Decodes the images.

    Raises:
        InputError: If there are no images, files are missing and `broken` is "raise", or no image is left.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        objects: Objects,
        where: str,
        training: bool,
        broken: BrokenPolicy,
        reader: ImageReader,
    ) -> None:
        if not images:
            raise InputError(f"{where}: lists no images")
        files = [image.file for image in images]
        present = with_files(range(len(images)), files, broken, where)
        stated = {index: (images[index].height, images[index].width) for index, _ in present}
        kept, sizes = known_sizes(stated, files.__getitem__, lambda index: str(files[index]), broken, where)
        objects = clean_objects(objects.of_images(kept, len(images)), sizes, where)
        images = [images[index] for index in kept]
        if training:
            learnt = with_objects(objects, len(images), where)
            objects, sizes = objects.of_images(learnt, len(images)), sizes[learnt]
            images = [images[index] for index in learnt]
        self._reader = reader
        self._files = [str(image.file) for image in images]
        self._checked_classes = [image.checked_classes for image in images]
        self.objects = ObjectTable([image.image_id for image in images], sizes, objects)

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


def known_sizes(
    stated: Mapping[int, tuple[int, int]],
    stored: Callable[[int], bytes | Path],
    name: Callable[[int], str],
    broken: BrokenPolicy,
    where: str,
) -> tuple[list[int], NDArray[np.int64]]:
    """Looks up the sizes that annotations don't say in the images.

    Args:
        stated: Height and width of each image by its number, below 1 where they aren't said.
        stored: Returns an image's file, or its content.
        name: Returns what an error message calls an image.
        broken: Whether an image that can't be read is an error, or is left out and noted.
        where: What lists them, for messages.

    Returns:
        The numbers of the images that have a size, and (images, 2) height and width of these.

    Raises:
        SampleError: If an image can't be read and `broken` is "raise".
    """
    sizes = dict(stated)
    for number in [number for number, size in stated.items() if min(size) < 1]:
        try:
            with opened_image(stored(number), name(number)) as image:
                sizes[number] = shown_size(image)
        except SampleError as error:
            if broken == "raise":
                raise
            note(f"{where}: left out an image whose size is not known: {error}")
            del sizes[number]
    return list(sizes), np.array(list(sizes.values()), dtype=np.int64).reshape(-1, 2)


def with_objects(objects: Objects, num_images: int, where: str) -> list[int]:
    """Which images have an object to learn from, crowds not counted; says how many have none.

    Args:
        objects: The objects.
        num_images: How many images there are.
        where: What lists them, for messages.

    Returns:
        Indices.

    Raises:
        InputError: If there is none.
    """
    kept = np.unique(objects.images[~objects.crowd]).tolist()
    if not kept:
        raise InputError(f"{where}: no image has an object to learn from")
    if len(kept) < num_images:
        note(f"{where}: left out {num_images - len(kept)} of {num_images} training images, which show no object")
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

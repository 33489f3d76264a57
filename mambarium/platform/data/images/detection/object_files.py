"""Images with objects: a source that is cleaned when it is made."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import BrokenPolicy, SampleError
from mambarium.platform.data.images.decoding import opened_image, shown_size
from mambarium.platform.data.images.detection.detection_samples import DetectionSample
from mambarium.platform.data.images.detection.objects import Objects, ObjectTable, clean_objects
from mambarium.platform.data.images.intensity import ImageReader
from mambarium.platform.data.images.stored_images import DecodedImages, ImageFiles, ImageRows


class AnnotatedImage(NamedTuple):
    """An image file and its number as an annotation file gives them, its size in pixels, 0 where that isn't said.

    In data of the LVIS kind, `checked_classes` are the classes known not to be in the image, and those of which not
    every object is marked; else None.
    """

    file: Path
    image_id: int
    height: int
    width: int
    checked_classes: tuple[list[int], list[int]] | None = None


class ImagesWithObjects(DecodedImages):
    """A source of images with objects, cleaned when it is made.

    Args:
        images: The images.
        image_ids: The number of each in the data set.
        sizes: Height and width of each as annotations say them, below 1 where they don't.
        objects: Their objects.
        where: What lists them, for messages.
        training: Whether images without objects are left out; one must be left, else there is an InputError.
        broken: What becomes of images of no known size that can't be read: a SampleError, or a note.
        reader: Decodes the images.
        checked_classes: For each image as in `AnnotatedImage`.
    """

    def __init__(
        self,
        images: ImageFiles | ImageRows,
        image_ids: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        objects: Objects,
        where: str,
        training: bool,
        broken: BrokenPolicy,
        reader: ImageReader,
        checked_classes: Sequence[tuple[list[int], list[int]] | None] | None = None,
    ) -> None:
        super().__init__(images, reader)
        kept, known = _known_sizes(images, sizes, broken, where)
        objects = clean_objects(objects.of_images(kept, len(images)), known, where)
        if training:
            learnt = _with_objects(objects, len(kept), where)
            objects, known = objects.of_images(learnt, len(kept)), known[learnt]
            kept = [kept[index] for index in learnt]
        self.images = images.chosen(kept)
        self._checked_classes = None if checked_classes is None else [checked_classes[index] for index in kept]
        self.objects = ObjectTable([image_ids[index] for index in kept], known, objects)

    def read(self, key: SampleKey) -> DetectionSample:
        sample = self.objects.sample(key[1], self.image(key[1]), self.name(key[1]))
        if self._checked_classes is not None and (checked := self._checked_classes[key[1]]) is not None:
            sample["negative_classes"], sample["partial_classes"] = checked
        return sample


def _known_sizes(
    images: ImageFiles | ImageRows, stated: Sequence[tuple[int, int]], broken: BrokenPolicy, where: str
) -> tuple[list[int], NDArray[np.int64]]:
    """Return the images whose size is known or found in them, and (images, 2) height and width of these."""
    sizes = dict(enumerate(stated))
    for index in [index for index, size in sizes.items() if min(size) < 1]:
        try:
            with opened_image(images.stored(index), images.name(index)) as image:
                sizes[index] = shown_size(image)
        except SampleError as error:
            if broken == "raise":
                raise
            note(f"{where}: left out an image whose size is not known: {error}")
            del sizes[index]
    return list(sizes), np.array(list(sizes.values()), dtype=np.int64).reshape(-1, 2)


def _with_objects(objects: Objects, num_images: int, where: str) -> list[int]:
    """Find the images with an object to learn from, crowds not counted; say how many have none."""
    kept = np.unique(objects.images[~objects.crowd]).tolist()
    if not kept:
        raise InputError(f"{where}: no image has an object to learn from")
    if len(kept) < num_images:
        note(f"{where}: left out {num_images - len(kept)} of {num_images} training images, which show no object")
    return kept

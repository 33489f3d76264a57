"""Detection data in COCO's JSON format, LVIS included."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.known_facts import Facts
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.dense.dense_images import ScaledOptions
from mambarium.platform.data.images.detection.coco_file import (
    CocoFile,
    check_names,
    class_frequencies,
    class_names,
    read_coco,
    read_images,
    read_objects,
)
from mambarium.platform.data.images.detection.detection_images import StoredDetection
from mambarium.platform.data.images.detection.object_files import ImagesWithObjects


class CocoDetection(StoredDetection):
    """Boxes and instance masks in COCO's JSON format (Lin et al. 2014); LVIS, Objects365 and own files likewise.

    Category ids may have gaps: classes are numbered from 0 in the order of the ids, and `category_ids` leads back.
    Crowds are kept, marked. Boxes of zero area and boxes outside their image are left out, those that reach more than
    a pixel over its border are clipped, training images without an object to learn from are left out; how many, is
    printed. Images are turned as their EXIF data says, and boxes and masks belong to what is shown then; sizes that the
    file doesn't say are those of the images.

    Args:
        path: Folder that the other paths are relative to.
        train_images: Folder of the training images.
        train_annotations: JSON file of the training images.
        val_images: Folder of the validation images.
        val_annotations: JSON file of the validation images.
        test_images: Folder of the images of `test_annotations`; None: the folder of the validation images.
        test_annotations: JSON file of the test images; None: the validation images are the test images.
        masks: Whether instance masks are read, for Mask R-CNN and for copy-paste.
        options: Those of `StoredDetection`.

    Raises:
        InputError: If a file is missing or lacks what is needed, or test images are given without annotations.
    """

    def __init__(
        self,
        path: str,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        masks: bool = False,
        **options: Inherited[ScaledOptions],
    ) -> None:
        super().__init__(class_names=None, **options)
        root = Path(path).expanduser()
        self._masks = masks
        self._parts = {
            "train": (root / train_annotations, root / train_images),
            "val": (root / val_annotations, root / val_images),
        }
        if test_annotations is None and test_images is not None:
            raise InputError(f"data.test_images is {test_images!r} without annotations; set data.test_annotations too")
        if test_annotations is not None:
            self._parts["test"] = (root / test_annotations, root / (test_images or val_images))

    @property
    def where(self) -> str:
        return str(self._parts["train"][0])

    @cached_property
    def _training_content(self) -> CocoFile:
        return read_coco(self._parts["train"][0], self._masks)

    def read_facts(self) -> Facts:
        names = class_names(self._training_content, self._parts["train"][0])
        return {
            "class_names": list(names.values()),
            "category_ids": list(names),
            "class_frequencies": class_frequencies(self._training_content),
        }

    def read_splits(self) -> Splits[ImagesWithObjects]:
        facts = self.found_facts
        names = dict(zip(facts["category_ids"], facts["class_names"], strict=True))
        sources = {}
        for part, (file, folder) in self._parts.items():
            content = self._training_content if part == "train" else read_coco(file, self._masks)
            check_names(content, file, names)
            images = read_images(content, file, folder, list(names))
            objects = read_objects(content, file, list(names))
            sources[part] = self.files_with_objects(images, objects, str(file), training=part == "train")
        del self._training_content  # many times the size of what is kept of it
        return Splits.of(sources)

    def image_ids(self, files: Sequence[Path]) -> tuple[list[int], str] | None:
        wanted = [file.parent.resolve() / file.name for file in files]
        for file, folder in reversed(self._parts.values()):
            if not file.is_file() or not all(path.is_relative_to(folder.resolve()) for path in wanted):
                continue
            listed = read_images(read_coco(file, masks=False), file, folder, [])
            ids = {image.file.parent.resolve() / image.file.name: image.image_id for image in listed}
            if all(path in ids for path in wanted):
                return [ids[path] for path in wanted], str(file)
        return None

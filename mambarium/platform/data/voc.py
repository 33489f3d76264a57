"""Detection data in Pascal VOC's XML format."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.broken_samples import BrokenPolicy, with_files
from mambarium.platform.data.contained import contained
from mambarium.platform.data.dense_images import Splits
from mambarium.platform.data.detection_images import DetectionImages
from mambarium.platform.data.detection_samples import DetectionSample
from mambarium.platform.data.images import IMAGENET_MEAN, IMAGENET_STD
from mambarium.platform.data.notes import note
from mambarium.platform.data.object_files import AnnotatedImage, ObjectFiles, detection_transforms
from mambarium.platform.data.objects import ObjectRecord
from mambarium.platform.data.sample_error import SampleError


class VocDetection(DetectionImages):
    """Boxes in Pascal VOC's format: `JPEGImages`, `Annotations` (XML) and lists of names in `ImageSets/Main`.

    Boxes are stored with pixels counted from 1, last pixels included; they become x1 - 1, y1 - 1, x2, y2. Objects
    marked difficult are treated as crowds: not trained on, matched without penalty. Boxes of zero area and boxes
    outside their image are left out, those that reach more than a pixel over its border are clipped, training images
    without an object to learn from are left out; how many, is printed. Images are turned as their EXIF data says, and
    boxes belong to what is shown then.

    Args:
        path: Folder that holds the three folders.
        train_list: Name of the list of training images, without `.txt`.
        val_list: Name of the list of validation images.
        test_list: Name of the list of test images; None: the validation images are the test images.
        class_names: The classes; None: all names in the training annotations, in alphabetical order.
        short_side: Length that the shorter side of images is scaled to.
        long_side: Limit of the longer side after scaling.
        train_transforms: torchvision v2 transforms of training images with their boxes, and those of
            mambarium.platform.data.dense_transforms; None: the shorter side to `short_side`, random horizontal flip.
        mean: Subtracted per channel, on a scale of 0 to 1; ImageNet's unless given.
        std: Divided by per channel, on a scale of 0 to 1; ImageNet's unless given.
        intensity_range: What is black and what is white in images of more than 8 bits, in all of them alike; None: 0
            and the highest number of as few bits as hold the training images (of up to 256, but for a thousandth of
            their pixels), or from the lowest where all lie far from 0. Images of 8 bits stay as they are.
        size_multiple: What height and width of a batch are padded to a multiple of.
        broken: Whether a file that is missing or can't be read ends the run (raise) or is noted and passed over (skip):
            then the next one is trained on in its place; evaluation images are all read once at the start.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.

    Raises:
        InputError: If a file is missing or lacks what is needed, or an object's class is none of the classes.
    """

    def __init__(
        self,
        path: str,
        train_list: str = "train",
        val_list: str = "val",
        test_list: str | None = None,
        class_names: list[str] | None = None,
        short_side: int = 600,
        long_side: int = 1000,
        train_transforms: list[Transform] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        intensity_range: tuple[float, float] | None = None,
        size_multiple: int = 32,
        broken: BrokenPolicy = "raise",
        batch_size: int = 16,
        passes: float | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        self._root = Path(path).expanduser()
        self._lists = {"train": train_list, "val": val_list}
        if test_list is not None:
            self._lists["test"] = test_list
        for_training, for_evaluation = detection_transforms(train_transforms, short_side, long_side)
        super().__init__(
            class_names=class_names,
            train_transforms=for_training,
            eval_transforms=for_evaluation,
            mean=mean,
            std=std,
            intensity_range=intensity_range,
            size_multiple=size_multiple,
            broken=broken,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )

    @property
    def where(self) -> str:
        """The list of training images."""
        return str(list_file(self._root, "Main", self._lists["train"]))

    @cached_property
    def _training(self) -> list["VocAnnotation"]:
        return self._read_list("train")

    def read_class_names(self) -> list[str]:
        """Returns all names in the training annotations, in alphabetical order."""
        return sorted({name for file in self._training for name in file.class_names})

    def _read_list(self, part: str) -> list["VocAnnotation"]:
        file = list_file(self._root, "Main", self._lists[part])
        names = read_list(file)
        xml_files = [contained(self._root / "Annotations", f"{name}.xml", str(file)) for name in names]
        annotations = []
        unreadable = 0
        for image_id, xml_file in with_files(range(len(names)), xml_files, self._broken, str(file)):
            try:
                annotations.append(VocAnnotation(xml_file, self._root / "JPEGImages", image_id))
            except SampleError as error:
                if self._broken == "raise":
                    raise
                unreadable += 1
                note(f"skipped broken annotation: {error}")
        if not annotations:
            raise InputError(f"{file}: none of its annotations can be read; set data.broken to raise to see why")
        if unreadable:
            note(f"{file}: left out {unreadable} of {len(names)} images whose annotations can't be read")
        return annotations

    def read_splits(self) -> Splits[DetectionSample]:
        """Returns the images of the lists."""
        class_names = self.found_facts["class_names"]
        sources = {}
        for part in self._lists:
            annotations = self._training if part == "train" else self._read_list(part)
            images = [annotation.image(class_names) for annotation in annotations]
            where = str(list_file(self._root, "Main", self._lists[part]))
            sources[part] = ObjectFiles(images, where, False, part == "train", self._broken, self.reader)
        return Splits(sources["train"], sources["val"], sources.get("test", sources["val"]))


class VocAnnotation:
    """One XML file, parsed.

    Args:
        file: The file.
        image_folder: Folder of the images.
        image_id: The image's number in its list.

    Raises:
        SampleError: If it can't be parsed or lacks what is needed.
    """

    def __init__(self, file: Path, image_folder: Path, image_id: int) -> None:
        try:
            root = ElementTree.parse(file).getroot()
        # The parser raises ValueError and LookupError for encodings that it does not know.
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
            raise SampleError(f"{file}: not a readable XML file ({error}); mend or remove it") from error
        self._file = file
        self._image_id = image_id
        file_name = (root.findtext("filename") or "").strip()
        self._image_file = contained(image_folder, file_name, f"{file}")
        if not self._image_file.is_file():  # copied sets often keep the names of the files they were made from
            self._image_file = image_folder / f"{file.stem}.jpg"
        self._width, self._height = (
            int(self._number(root, f"size/{side}", "the image")) for side in ("width", "height")
        )
        if min(self._width, self._height) < 1:
            raise SampleError(
                f"{file}: says that the image has {self._width} x {self._height} pixels; mend or remove it"
            )
        self.class_names: list[str] = []
        self._objects: list[ObjectRecord] = []
        for position, item in enumerate(root.iter("object")):
            what = f"object {position + 1}"
            name = (item.findtext("name") or "").strip()
            if not name:
                raise SampleError(f"{file}: {what} has no name")
            x1, y1, x2, y2 = (self._number(item, f"bndbox/{side}", what) for side in ("xmin", "ymin", "xmax", "ymax"))
            # Whoever counts from 0 has a 0 here, which stays within the tolerance of a pixel.
            box = (x1 - 1, y1 - 1, x2, y2)
            # With last pixels included these would be a pixel wide: a click that was meant to be a box.
            degenerate = x2 <= x1 or y2 <= y1
            crowd = (item.findtext("difficult") or "0").strip() == "1"
            self.class_names.append(name)
            self._objects.append(ObjectRecord((0, 0, 0, 0) if degenerate else box, label=-1, crowd=crowd))

    def _number(self, element: ElementTree.Element, path: str, what: str) -> float:
        text = element.findtext(path)
        try:
            number = float(text or "")
        except ValueError as error:
            found = "no" if text is None else f"{text!r} as"
            raise SampleError(f"{self._file}: {what} has {found} {path}") from error
        if not math.isfinite(number):
            raise SampleError(f"{self._file}: {what} has {text!r} as {path}")
        return number

    def image(self, class_names: Sequence[str]) -> AnnotatedImage:
        """Returns the image and its objects, labelled.

        Raises:
            InputError: If an object's class is none of the classes.
        """
        labels = {name: label for label, name in enumerate(class_names)}
        for position, name in enumerate(self.class_names):
            if name not in labels:
                raise InputError(
                    f"{self._file}: object {position + 1} is {name!r}, none of the classes {', '.join(class_names)}"
                )
        objects = [
            item._replace(label=labels[name]) for item, name in zip(self._objects, self.class_names, strict=True)
        ]
        return AnnotatedImage(self._image_file, self._image_id, self._height, self._width, objects)


def list_file(root: Path, kind: str, name: str) -> Path:
    """Where a list of names lies."""
    return root / "ImageSets" / kind / f"{name}.txt"


def read_list(file: Path) -> list[str]:
    """Reads a list of names, one a line; of a class's list, which gives -1, 0 or 1 after each name, the names alone.

    Args:
        file: The list.

    Returns:
        The names.

    Raises:
        InputError: If there is no such list, or it is empty or not in UTF-8.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such list of images: check data.path and the names of the lists")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not text in UTF-8 ({error}): store it as such") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise InputError(f"{file}: names no image")
    return names

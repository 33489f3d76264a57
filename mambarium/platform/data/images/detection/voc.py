"""Detection data in Pascal VOC's XML format."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import msgspec

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.samples import SampleError, with_files
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.dense.dense_images import DenseOptions
from mambarium.platform.data.images.detection.annotation_records import Coordinate, Flag, Name, Side, as_record
from mambarium.platform.data.images.detection.detection_images import StoredDetection
from mambarium.platform.data.images.detection.object_files import AnnotatedImage, ImagesWithObjects
from mambarium.platform.data.images.detection.objects import ObjectRecord, Objects
from mambarium.platform.data.images.image_files import contained, image_suffixes, read_list


class VocDetection(StoredDetection):
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
        options: Those of `StoredDetection`, whose short_side and long_side are smaller here.

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
        **options: Inherited[DenseOptions],
    ) -> None:
        super().__init__(class_names=class_names, short_side=short_side, long_side=long_side, **options)
        self._root = Path(path).expanduser()
        lists = {"train": train_list, "val": val_list, "test": test_list}
        folder = self._root / "ImageSets" / "Main"
        self._lists = {part: folder / f"{name}.txt" for part, name in lists.items() if name is not None}

    @property
    def where(self) -> str:
        return str(self._lists["train"])

    @cached_property
    def _training(self) -> "list[VocAnnotation]":
        return self._read_list("train")

    def read_class_names(self) -> list[str]:
        return sorted({item.name for annotation in self._training for item in annotation.objects})

    def _read_list(self, part: str) -> "list[VocAnnotation]":
        file = self._lists[part]
        names = read_list(file)
        xml_files = [contained(self._root / "Annotations", f"{name}.xml", str(file)) for name in names]
        annotations = []
        unreadable = 0
        for image_id, xml_file in with_files(range(len(names)), xml_files, self._broken, str(file)):
            try:
                annotations.append(read_annotation(xml_file, self._root / "JPEGImages", image_id))
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

    def read_splits(self) -> Splits[ImagesWithObjects]:
        class_names = self.found_facts["class_names"]
        sources = {}
        for part, file in self._lists.items():
            annotations = self._training if part == "train" else self._read_list(part)
            images = [annotation.image for annotation in annotations]
            records = [labelled_objects(annotation, class_names) for annotation in annotations]
            objects = Objects.of_records(records, masks=False)
            sources[part] = self.files_with_objects(images, objects, str(file), training=part == "train")
        return Splits.of(sources)


class VocBox(msgspec.Struct):
    """Corners of a box, pixels counted from 1, the last ones included."""

    xmin: Coordinate
    ymin: Coordinate
    xmax: Coordinate
    ymax: Coordinate


class VocObject(msgspec.Struct):
    """An object."""

    name: Name
    bndbox: VocBox
    difficult: Flag | None = None


class VocSize(msgspec.Struct):
    """The image's size."""

    width: Side = 0
    height: Side = 0


class VocImage(msgspec.Struct):
    """What an XML file says of an image."""

    object: list[VocObject]
    size: VocSize
    filename: str = ""


class VocAnnotation(NamedTuple):
    """One XML file: the image that it is of, and the objects in it."""

    file: Path
    image: AnnotatedImage
    objects: list[VocObject]


def read_annotation(file: Path, image_folder: Path, image_id: int) -> VocAnnotation:
    """Read an XML file, of the image of a number in its list.

    Raises SampleError if it can't be parsed or lacks what is needed, InputError if it names a file outside the folder.
    """
    try:
        root = ElementTree.parse(file).getroot()
    # The parser raises ValueError and LookupError for encodings that it does not know.
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise SampleError(f"{file}: not a readable XML file ({error}); mend or remove it") from error
    said = {
        **_texts(root),
        "size": _texts(root.find("size")),
        "object": [_object(item) for item in root.iter("object")],
    }
    content: VocImage = as_record(said, VocImage, str(file))
    found = image_file(image_folder, content.filename, file)
    image = AnnotatedImage(found, image_id, content.size.height, content.size.width)
    return VocAnnotation(file, image, content.object)


def labelled_objects(annotation: VocAnnotation, class_names: Sequence[str]) -> list[ObjectRecord]:
    """Return the objects of an image with the numbers of their classes; raises InputError if a class is unknown."""
    labels = {name: label for label, name in enumerate(class_names)}
    records = []
    for position, item in enumerate(annotation.objects):
        if item.name not in labels:
            raise InputError(
                f"{annotation.file}: object[{position}] is {item.name!r}, none of the classes {', '.join(class_names)}"
            )
        box = item.bndbox
        # Whoever counts from 0 has a 0 here, which stays within the tolerance of a pixel.
        corners = (box.xmin - 1, box.ymin - 1, box.xmax, box.ymax)
        # With last pixels included these would be a pixel wide: a click that was meant to be a box.
        degenerate = box.xmax <= box.xmin or box.ymax <= box.ymin
        records.append(
            ObjectRecord((0, 0, 0, 0) if degenerate else corners, labels[item.name], crowd=bool(item.difficult))
        )
    return records


def image_file(folder: Path, name: str, annotation: Path) -> Path:
    """Return the file that an annotation is of: the named one, or else the one named like the annotation.

    The name in the annotation may lack the suffix, begin with the path of another machine, or be that of the file that
    the image was made from, but not lead out of the folder: an InputError.
    """
    if PureWindowsPath(name).root:
        name = PureWindowsPath(name).name
    named = contained(folder, name, str(annotation))
    for stem in (str(named), str(folder / annotation.stem)):
        for suffix in ("", ".jpg", *sorted(image_suffixes())):
            if (file := Path(stem + suffix)).is_file():
                return file
    return folder / f"{annotation.stem}.jpg"


def _texts(element: ElementTree.Element | None) -> dict[str, Any]:
    """Return the texts of an element's children, those that are blank left out."""
    children = [] if element is None else list(element)
    return {child.tag: child.text.strip() for child in children if child.text and child.text.strip()}


def _object(element: ElementTree.Element) -> dict[str, Any]:
    box = element.find("bndbox")
    return _texts(element) | ({} if box is None else {"bndbox": _texts(box)})

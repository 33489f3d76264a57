"""Detection data in COCO's JSON format, LVIS included."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.broken_samples import BrokenPolicy
from mambarium.platform.data.coco_masks import encode_segmentation
from mambarium.platform.data.contained import contained
from mambarium.platform.data.dense_images import Splits
from mambarium.platform.data.detection_images import DetectionImages
from mambarium.platform.data.detection_samples import DetectionSample
from mambarium.platform.data.facts import Facts
from mambarium.platform.data.images import IMAGENET_MEAN, IMAGENET_STD
from mambarium.platform.data.notes import note
from mambarium.platform.data.object_files import AnnotatedImage, ObjectFiles, detection_transforms
from mambarium.platform.data.objects import ObjectRecord

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""What LVIS says of each image: categories known not to be there, and those of which not every object is marked."""


class CocoDetection(DetectionImages):
    """Boxes and instance masks in COCO's JSON format (Lin et al. 2014); LVIS, Objects365 and own files likewise.

    Category ids may have gaps: classes are numbered from 0 in the order of the ids, and `category_ids` leads back.
    Crowds are kept, marked. Boxes of zero area and boxes outside their image are left out, those that reach more than
    a pixel over its border are clipped, training images without an object to learn from are left out; how many, is
    printed. Images are turned as their EXIF data says, and boxes and masks belong to what is shown then.

    Args:
        path: Folder that the other paths are relative to.
        train_images: Folder of the training images.
        train_annotations: JSON file of the training images.
        val_images: Folder of the validation images.
        val_annotations: JSON file of the validation images.
        test_images: Folder of the images of `test_annotations`; None: the folder of the validation images.
        test_annotations: JSON file of the test images; None: the validation images are the test images.
        masks: Whether instance masks are read, for Mask R-CNN and for copy-paste.
        short_side: Length that the shorter side of images is scaled to.
        long_side: Limit of the longer side after scaling.
        train_transforms: torchvision v2 transforms of training images with their boxes and masks, and those of
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
        short_side: int = 800,
        long_side: int = 1333,
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
        root = Path(path).expanduser()
        self._masks = masks
        self._parts = {
            "train": (root / train_annotations, root / train_images),
            "val": (root / val_annotations, root / val_images),
        }
        if test_annotations is None and test_images is not None:
            raise InputError(f"data.test_images is {test_images!r} without annotations: set data.test_annotations too")
        if test_annotations is not None:
            self._parts["test"] = (root / test_annotations, root / (test_images or val_images))
        for_training, for_evaluation = detection_transforms(train_transforms, short_side, long_side)
        super().__init__(
            class_names=None,
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
        """The annotations of the training images."""
        return str(self._parts["train"][0])

    @cached_property
    def _training_content(self) -> dict[str, Any]:
        return read_annotations(self._parts["train"][0])

    def read_facts(self) -> Facts:
        """Finds out the categories of the training annotations."""
        file = self._parts["train"][0]
        categories = read_categories(self._training_content, file)
        has_frequencies = all("frequency" in category for category in categories)
        return {
            "class_names": [category["name"] for category in categories],
            "category_ids": [category["id"] for category in categories],
            "class_frequencies": read_frequencies(categories, file) if has_frequencies else None,
        }

    def read_splits(self) -> Splits[DetectionSample]:
        """Returns the images of the annotation files."""
        facts = self.found_facts
        names = dict(zip(facts["category_ids"], facts["class_names"], strict=True))
        sources = {}
        for part, (file, folder) in self._parts.items():
            content = self._training_content if part == "train" else read_annotations(file)
            check_names(content, file, names)
            images = read_images(content, file, folder, list(names), self._masks)
            sources[part] = ObjectFiles(images, str(file), self._masks, part == "train", self._broken, self.reader)
        del self._training_content  # many times the size of what is kept of it
        return Splits(sources["train"], sources["val"], sources.get("test", sources["val"]))

    def image_ids(self, files: Sequence[Path]) -> tuple[list[int], str] | None:
        """Finds the ids of images by their files, in the annotation files of their folder."""
        wanted = [file.parent.resolve() / file.name for file in files]
        for file, folder in reversed(self._parts.values()):
            if not file.is_file() or not all(path.is_relative_to(folder.resolve()) for path in wanted):
                continue
            listed = read_images({**read_annotations(file), "annotations": []}, file, folder, [], masks=False)
            ids = {image.file.parent.resolve() / image.file.name: image.image_id for image in listed}
            if all(path in ids for path in wanted):
                return [ids[path] for path in wanted], str(file)
        return None


def read_annotations(file: Path) -> dict[str, Any]:
    """Reads an annotation file.

    Args:
        file: The JSON file.

    Returns:
        Its content.

    Raises:
        InputError: If it is missing, no JSON, or lacks images, annotations or categories.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}): check data.path and the names below it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON file ({error})") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{file}: has no list {name!r}, so it is not in COCO's format for detection")
    return content


def read_categories(content: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """The categories of an annotation file in the order of their ids.

    Args:
        content: The file's content.
        file: The file, for messages.

    Returns:
        Mappings with at least "id" and "name".

    Raises:
        InputError: If there are none, one lacks a key or has a wrong kind of value, or an id occurs twice.
    """
    known = set()
    for position, category in enumerate(content["categories"]):
        what = f"category {position + 1}"
        require_keys(category, ("id", "name"), file, what)
        require_number(category, "id", file, what)
        if not isinstance(category["name"], str):
            raise InputError(f"{file}: {what} has name {category['name']!r}, not a text")
        if category["id"] in known:
            raise InputError(f"{file}: category id {category['id']} is listed twice")
        known.add(category["id"])
    categories = sorted(content["categories"], key=lambda category: category["id"])
    if not categories:
        raise InputError(f"{file}: lists no categories")
    return categories


def read_frequencies(categories: list[dict[str, Any]], file: Path) -> list[str]:
    """LVIS's frequency of each category.

    Args:
        categories: Mappings with "id" and "frequency".
        file: The file, for messages.

    Raises:
        InputError: If one is none of "r", "c" and "f".
    """
    frequencies = [category["frequency"] for category in categories]
    for category, frequency in zip(categories, frequencies, strict=True):
        if frequency not in ("r", "c", "f"):
            raise InputError(f"{file}: category {category['id']} has frequency {frequency!r}, not r, c or f")
    return frequencies


def check_names(content: dict[str, Any], file: Path, names: dict[int, str]) -> None:
    """Checks that a file means the same by its category ids as the training file.

    Args:
        content: The file's content.
        file: The file, for messages.
        names: The training file's name of each category id.

    Raises:
        InputError: If a category has another name there, or isn't as `read_categories` wants it.
    """
    for category in read_categories(content, file):
        name = names.get(category["id"], category["name"])
        if name != category["name"]:
            raise InputError(
                f"{file}: category {category['id']} is {category['name']!r}, in the training file it is {name!r}: "
                "give files of the same categories"
            )


def read_images(
    content: dict[str, Any], file: Path, folder: Path, category_ids: list[int], masks: bool
) -> list[AnnotatedImage]:
    """The images of an annotation file with their objects.

    Args:
        content: The file's content.
        file: The file, for messages.
        folder: Folder of the images.
        category_ids: The category id of each class.
        masks: Whether segmentations are kept.

    Returns:
        The images in the file's order.

    Raises:
        InputError: If a record lacks a key or has a wrong kind of value, an id occurs twice, a category is none of the
            classes, or only some images have LVIS's lists.
    """
    images: dict[int, AnnotatedImage] = {}
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    for position, record in enumerate(content["images"]):
        what = record_name("image", record, position)
        require_keys(record, ("id", "height", "width"), file, what)
        require_number(record, "id", file, what)
        for side in ("height", "width"):
            require_number(record, side, file, what, least=1)
        if record["id"] in images:
            raise InputError(f"{file}: {what} is listed twice")
        name = record.get("file_name")
        if name is None:  # LVIS gives the address alone, which ends with the folder and the name
            require_keys(record, ("coco_url",), file, f"{what} without file_name")
            name = "/".join(str(record["coco_url"]).split("/")[-2:])
        if not isinstance(name, str):
            raise InputError(f"{file}: {what} has file_name {name!r}, not a text")
        checked = None
        if "neg_category_ids" in record:
            negative, partial = (
                [labels[number] for number in id_list(record, key, file, what) if number in labels]
                for key in LVIS_LISTS
            )
            checked = (negative, partial)
        images[record["id"]] = AnnotatedImage(
            contained(folder, name, f"{file}: {what}"), record["id"], record["height"], record["width"], [], checked
        )
    require_lists_of_all(content["images"], file)
    required = ("image_id", "category_id", "bbox", "segmentation") if masks else ("image_id", "category_id", "bbox")
    strangers = 0
    for position, record in enumerate(content["annotations"]):
        what = record_name("annotation", record, position)
        require_keys(record, required, file, what)
        for key in ("image_id", "category_id"):
            require_number(record, key, file, what)
        if record["category_id"] not in labels:
            raise InputError(f"{file}: {what} has category {record['category_id']}, which the training file lacks")
        if not is_box(record["bbox"]):
            raise InputError(f"{file}: {what} has bbox {record['bbox']!r}, not four numbers")
        area = record.get("area")
        if area is not None and not is_area(area):
            raise InputError(f"{file}: {what} has area {area!r}, not a number from 0 on")
        if record["image_id"] not in images:
            strangers += 1
            continue
        x, y, width, height = record["bbox"]
        images[record["image_id"]].objects.append(
            ObjectRecord(
                box=(x, y, x + width, y + height),
                label=labels[record["category_id"]],
                crowd=bool(record.get("iscrowd", 0)),
                area=area,
                segmentation=encode_segmentation(record["segmentation"]) if masks else None,
            )
        )
    if strangers:
        note(f"{file}: {strangers} annotations of images that it does not list left out")
    return list(images.values())


def record_name(kind: str, record: Any, position: int) -> str:
    """What an error message calls a record: by its id, or by its place in the file."""
    known = record.get("id") if isinstance(record, dict) else None
    return f"{kind} number {position + 1}" if known is None else f"{kind} {known}"


def require_keys(record: Any, keys: tuple[str, ...], file: Path, what: str) -> None:
    """Checks that a record is a mapping with all keys.

    Raises:
        InputError: If it is none, or one is absent.
    """
    if not isinstance(record, dict):
        raise InputError(f"{file}: {what} is {record!r}, not a mapping")
    for key in keys:
        if key not in record:
            raise InputError(f"{file}: {what} has no {key!r}")


def require_number(record: dict[str, Any], key: str, file: Path, what: str, least: int | None = None) -> None:
    """Checks that a value is a whole number.

    Raises:
        InputError: If it is something else, or below the least.
    """
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        wanted = "a whole number" if least is None else f"a whole number from {least} on"
        raise InputError(f"{file}: {what} has {key} {value!r}, not {wanted}")


def require_lists_of_all(records: list[dict[str, Any]], file: Path) -> None:
    """Checks that LVIS's lists are those of all images or of none, as evaluation follows one rule or the other.

    Raises:
        InputError: If an image lacks a list that another has, or has only the list of incompletely marked categories.
    """
    given = [key for key in LVIS_LISTS if any(key in record for record in records)]
    for key in LVIS_LISTS:
        for record in records:
            if key not in record and (key in given or (given and key == "neg_category_ids")):
                raise InputError(
                    f"{file}: image {record['id']} has no {key!r}, but the file has {' and '.join(given)}: "
                    "give the lists to all images or to none"
                )


def id_list(record: dict[str, Any], key: str, file: Path, what: str) -> list[int]:
    """A record's list of ids, empty if it has none.

    Raises:
        InputError: If it is something else than a list of whole numbers.
    """
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
        raise InputError(f"{file}: {what} has {key} {value!r}, not a list of whole numbers")
    return value


def is_box(value: Any) -> bool:
    """Whether a value is four numbers."""
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(side, int | float) for side in value)


def is_area(value: Any) -> bool:
    """Whether a value is a number from 0 on that single precision can hold."""
    return isinstance(value, int | float) and 0 <= value < 2.0**127

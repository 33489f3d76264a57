"""How published segmentation sets lie in their folders, and what the numbers in their masks mean."""

from collections.abc import Mapping
from typing import NamedTuple

from torchvision.datasets import Cityscapes

from mambarium.errors import InputError

CITYSCAPES_CLASSES = {found.name: found.id for found in Cityscapes.classes if not found.ignore_in_eval}
"""The 19 classes that count, with their numbers in the labelIds files."""

PASCAL_VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow dining_table dog horse motorbike person "
    "potted_plant sheep sofa train tv_monitor"
)

CAMVID_CLASSES = "sky building pole road pavement tree sign fence car pedestrian bicyclist"

ADE20K_CLASSES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, "
    "dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, "
    "fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, "
    "minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, "
    "screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, "
    "monitor, bulletin board, shower, radiator, glass, clock, flag"
)
"""The 150 classes of the scene parsing benchmark, in their order."""


class MaskLayout(NamedTuple):
    """Where images and masks lie, and what the numbers in masks mean.

    Attributes:
        class_names: One name per class.
        classes: The class of each number that a mask may hold.
        ignored: Numbers of pixels that don't count.
        folders: For each split the possible pairs of image folder and mask folder, below the set's folder; the first
            that exists is taken.
        image_suffix: How names of images end; "" for any image.
        mask_suffix: What stands in its place in the name of the mask.
        lists: Folder of the lists of names, if lists say which images belong to a split.
    """

    class_names: tuple[str, ...]
    classes: Mapping[int, int]
    ignored: frozenset[int]
    folders: Mapping[str, tuple[tuple[str, str], ...]]
    image_suffix: str = ""
    mask_suffix: str = ".png"
    lists: str | None = None


def numbered(class_names: tuple[str, ...], first: int = 0) -> dict[int, int]:
    """Return the class of each number in masks that number the classes one after the other."""
    return {first + index: index for index in range(len(class_names))}


def _camvid() -> MaskLayout:
    names = tuple(CAMVID_CLASSES.split())
    return MaskLayout(
        names,
        numbered(names),
        frozenset({11}),
        {
            split: ((f"{split}/images", f"{split}/masks"), (split, f"{split}annot"))
            for split in ("train", "val", "test")
        },
    )


def _pascal_voc() -> MaskLayout:
    names = tuple(name.replace("_", " ") for name in PASCAL_VOC_CLASSES.split())
    folders = (("JPEGImages", "SegmentationClass"),)
    return MaskLayout(
        names,
        numbered(names),
        frozenset({255}),
        {"train": folders, "val": folders},
        ".jpg",
        lists="ImageSets/Segmentation",
    )


def _ade20k() -> MaskLayout:
    names = tuple(ADE20K_CLASSES.split(", "))
    folders = {"train": "training", "val": "validation"}
    return MaskLayout(
        names,
        numbered(names, first=1),
        frozenset({0}),
        {split: ((f"images/{folder}", f"annotations/{folder}"),) for split, folder in folders.items()},
    )


def _cityscapes() -> MaskLayout:
    return MaskLayout(
        tuple(CITYSCAPES_CLASSES),
        {number: index for index, number in enumerate(CITYSCAPES_CLASSES.values())},
        frozenset(range(34)) - frozenset(CITYSCAPES_CLASSES.values()) | {255},
        {split: ((f"leftImg8bit/{split}", f"gtFine/{split}"),) for split in ("train", "val")},
        "_leftImg8bit.png",
        "_gtFine_labelIds.png",
    )


PRESETS = {"ade20k": _ade20k(), "camvid": _camvid(), "cityscapes": _cityscapes(), "pascal_voc": _pascal_voc()}
"""The published sets by name."""


def own_layout(
    class_names: list[str] | None,
    mask_values: Mapping[int, str | None] | None,
    ignored_value: int,
    zero_is_ignored: bool,
) -> MaskLayout:
    """Make the layout of a set of one's own: folders `images` and `masks` in each of `train`, `val` and `test`.

    Args:
        class_names: One name per class, for masks that number them one after the other; None: `mask_values` has them.
        mask_values: The class of each number, None for pixels that don't count, in place of `class_names`. Classes are
            in the order of their lowest numbers.
        ignored_value: Number of pixels that don't count, unless `mask_values` has it.
        zero_is_ignored: Whether 0 does not count either and class 0 has the number 1; for `class_names` alone.

    Raises:
        InputError: If neither names the classes, or both do.
    """
    folders = {split: ((f"{split}/images", f"{split}/masks"),) for split in ("train", "val", "test")}
    if (class_names is None) == (mask_values is None):
        raise InputError("give data.class_names, or data.mask_values such as {0: background, 255: object}: one of them")
    if mask_values is None:
        names = tuple(class_names or ())
        ignored = {ignored_value, 0} if zero_is_ignored else {ignored_value}
        return MaskLayout(names, numbered(names, first=int(zero_is_ignored)), frozenset(ignored), folders)
    if zero_is_ignored:
        raise InputError("data.zero_is_ignored goes with data.class_names: in data.mask_values, write 0: null instead")
    named = {number: name for number, name in sorted(mask_values.items()) if name is not None}
    names = tuple(dict.fromkeys(named.values()))
    ignored = {ignored_value, *mask_values} - named.keys()
    return MaskLayout(names, {number: names.index(name) for number, name in named.items()}, frozenset(ignored), folders)

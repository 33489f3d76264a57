"""How published segmentation sets lie in their folders, and what the numbers in their masks mean."""

from collections.abc import Mapping
from typing import NamedTuple

from torchvision.datasets import Cityscapes

from mambarium.errors import InputError

CITYSCAPES_CLASSES = {found.name: found.id for found in Cityscapes.classes if not found.ignore_in_eval}
"""The 19 classes that count, with their numbers in the labelIds files."""


def _names(listed: str) -> tuple[str, ...]:
    return tuple(listed.split(", "))


PASCAL_VOC_CLASSES = _names(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dining table, dog, horse, "
    "motorbike, person, potted plant, sheep, sofa, train, tv monitor"
)

CAMVID_CLASSES = _names("sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist")

ADE20K_CLASSES = _names(
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


PRESETS = {
    "ade20k": MaskLayout(
        ADE20K_CLASSES,
        numbered(ADE20K_CLASSES, first=1),
        frozenset({0}),
        {
            "train": (("images/training", "annotations/training"),),
            "val": (("images/validation", "annotations/validation"),),
        },
    ),
    "camvid": MaskLayout(
        CAMVID_CLASSES,
        numbered(CAMVID_CLASSES),
        frozenset({11}),
        {part: ((f"{part}/images", f"{part}/masks"), (part, f"{part}annot")) for part in ("train", "val", "test")},
    ),
    "cityscapes": MaskLayout(
        tuple(CITYSCAPES_CLASSES),
        {number: index for index, number in enumerate(CITYSCAPES_CLASSES.values())},
        frozenset(range(34)) - frozenset(CITYSCAPES_CLASSES.values()) | {255},
        {part: ((f"leftImg8bit/{part}", f"gtFine/{part}"),) for part in ("train", "val")},
        "_leftImg8bit.png",
        "_gtFine_labelIds.png",
    ),
    "pascal_voc": MaskLayout(
        PASCAL_VOC_CLASSES,
        numbered(PASCAL_VOC_CLASSES),
        frozenset({255}),
        {part: (("JPEGImages", "SegmentationClass"),) for part in ("train", "val")},
        ".jpg",
        lists="ImageSets/Segmentation",
    ),
}
"""The published sets by name."""


def own_layout(
    class_names: list[str] | None,
    mask_values: Mapping[int, str | None] | None,
    ignored_value: int,
    zero_is_ignored: bool,
) -> MaskLayout:
    """Make the layout of a set of one's own: folders `images` and `masks` in each of `train`, `val` and `test`.

    The arguments are those of `StoredSegmentation`.
    """
    folders = {split: ((f"{split}/images", f"{split}/masks"),) for split in ("train", "val", "test")}
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

"""Segmentation data in folders of images and of masks."""

from pathlib import Path
from typing import Literal

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.samples import with_files
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.image_files import contained, find_images, in_either_form, read_list
from mambarium.platform.data.images.segmentation.mask_files import ImagesWithMasks
from mambarium.platform.data.images.segmentation.mask_layouts import PRESETS, MaskLayout
from mambarium.platform.data.images.segmentation.segmentation_images import MaskOptions, StoredSegmentation
from mambarium.platform.data.images.stored_images import ImageFiles

Preset = Literal["ade20k", "camvid", "cityscapes", "pascal_voc"]


class MaskFolder(StoredSegmentation):
    """Images and masks in folders: those of a published set as it is unpacked, or `train/images`, `train/masks`, ...

    A mask is an image that holds the number of each pixel's class: grey (8 or 16 bits) or with a palette. It has the
    image's name and the suffix `.png`, unless a preset says otherwise. Presets: ADE20K (150 classes, 0 ignored),
    Cityscapes (19 classes of the labelIds files), Pascal VOC 2012 (21 classes, 255 ignored), CamVid (11 classes, 11
    ignored). Images are turned as their EXIF data says, and masks only if their own says so.

    Args:
        path: The set's folder.
        preset: Which published set it is; None: folders `train`, `val` and, if there is one, `test`, with `images` and
            `masks` in each.
        options: Those of `StoredSegmentation`; the names and numbers of classes are for a set of one's own.

    Raises:
        InputError: If a folder or file is missing, or the classes are not given once.
    """

    ways_to_name_classes = "data.preset (a published set), data.class_names and data.mask_values (a set of your own)"

    def __init__(self, path: str, preset: Preset | None = None, **options: Inherited[MaskOptions]) -> None:
        super().__init__(published=None if preset is None else PRESETS[preset], **options)
        self._root = Path(path).expanduser()

    @property
    def where(self) -> str:
        return str(self._root)

    def read_splits(self) -> Splits[ImagesWithMasks]:
        if not self._root.is_dir():
            raise InputError(f"{self._root}: no such folder (data.path)")
        folders = {split: pair for split in self.layout.folders if (pair := self._folders(split))}
        return Splits.of({split: self._source(split, *pair) for split, pair in folders.items()})

    def _folders(self, split: str) -> tuple[Path, Path] | None:
        """Return the folders of a split's images and masks; None if there is no test split."""
        pairs = self.layout.folders[split]
        for images, masks in pairs:
            if (self._root / images).is_dir() and (self._root / masks).is_dir():
                return self._root / images, self._root / masks
        if split == "test":
            return None
        raise InputError(f"{self._root}: has no folders {pairs[0][0]} and {pairs[0][1]}; check data.path")

    def _source(self, split: str, image_folder: Path, mask_folder: Path) -> ImagesWithMasks:
        layout = self.layout
        if layout.lists is None:
            suffix = layout.image_suffix
            found = find_images(image_folder, tell=True)
            images = [path for path in found if path.name.endswith(suffix)]
            where = str(image_folder)
            if not images:
                raise InputError(f"{image_folder}: no images whose names end with {suffix}")
            if len(images) < len(found):
                note(f"{image_folder}: passed over {len(found) - len(images)} images that don't end with {suffix}")
        else:
            file = self._root / layout.lists / f"{split}.txt"
            names = read_list(file)
            where = str(file)
            listed = [contained(image_folder, f"{name}.jpg", where) for name in names]
            images = [image for _, image in with_files(names, listed, self._broken, where)]
        masks = [in_either_form(mask_folder / _mask_name(path.relative_to(image_folder), layout)) for path in images]
        pairs = with_files(images, masks, self._broken, where)
        return ImagesWithMasks(
            ImageFiles([str(image) for image, _ in pairs]),
            self.reader,
            ImageFiles([str(mask) for _, mask in pairs]),
            range(len(pairs)),
            self.decoder,
        )


def _mask_name(image: Path, layout: MaskLayout) -> str:
    name = str(image)
    stem = name.removesuffix(layout.image_suffix) if layout.image_suffix else str(image.with_suffix(""))
    return stem + layout.mask_suffix

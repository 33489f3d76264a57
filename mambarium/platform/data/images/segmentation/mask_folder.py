"""Segmentation data in folders of images and of masks."""

from pathlib import Path
from typing import Literal

from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import BrokenPolicy, with_files
from mambarium.platform.data.images.annotated_names import contained
from mambarium.platform.data.images.classification.labelled_images import IMAGENET_MEAN, IMAGENET_STD
from mambarium.platform.data.images.dense.dense_images import Splits
from mambarium.platform.data.images.dense.dense_transforms import LargeScaleJitter, ResizeShortSide, WindowCrop
from mambarium.platform.data.images.detection.voc import read_list
from mambarium.platform.data.images.image_files import find_images, in_either_form
from mambarium.platform.data.images.intensity import ImageReader
from mambarium.platform.data.images.segmentation.mask_files import MaskDecoder
from mambarium.platform.data.images.segmentation.mask_layouts import PRESETS, MaskLayout, own_layout
from mambarium.platform.data.images.segmentation.segmentation_images import SegmentationImages
from mambarium.platform.data.images.segmentation.segmentation_samples import SegmentationSample, segmentation_sample

Preset = Literal["ade20k", "camvid", "cityscapes", "pascal_voc"]


class MaskFolder(SegmentationImages):
    """Images and masks in folders: those of a published set as it is unpacked, or `train/images`, `train/masks`, ...

    A mask is an image that holds the number of each pixel's class: grey (8 or 16 bits) or with a palette. It has the
    image's name and the suffix `.png`, unless a preset says otherwise. Presets: ADE20K (150 classes, 0 ignored),
    Cityscapes (19 classes of the labelIds files), Pascal VOC 2012 (21 classes, 255 ignored), CamVid (11 classes, 11
    ignored). Images are turned as their EXIF data says, and masks only if their own says so.

    Args:
        path: The set's folder.
        preset: Which published set it is; None: folders `train`, `val` and, if there is one, `test`, with `images` and
            `masks` in each.
        class_names: One name per class, for a set of one's own whose masks number the classes from 0.
        mask_values: The class of each value that a mask may hold, such as `{0: background, 255: object}`, in place of
            class_names; several values may have one class, `null` is for pixels that don't count. Classes are numbered
            in the order of their lowest values.
        ignored_value: Number of pixels that don't count, unless mask_values has it; for a set of one's own.
        zero_is_ignored: Whether 0 does not count either and class 0 of class_names has the number 1.
        short_side: Length that the shorter side of images is scaled to in evaluation; predictions are measured at the
            original size all the same.
        long_side: Limit of the longer side after scaling.
        crop_size: Side of the window that is trained on, unless train_transforms are given.
        train_transforms: torchvision v2 transforms of training images with their masks, and those of
            mambarium.platform.data; None: a random scale of 0.5 to 2, a random window of `crop_size`
            with no class above 0.75 of it, a random horizontal flip.
        mean: Subtracted per channel, on a scale of 0 to 1; ImageNet's unless given.
        std: Divided by per channel, on a scale of 0 to 1; ImageNet's unless given.
        intensity_range: What is black and what is white in images of more than 8 bits, in all of them alike; None: 0
            and the highest number of as few bits as hold the training images (of up to 256, but for a thousandth of
            their pixels), or from the lowest where all lie far from 0. Images of 8 bits stay as they are.
        size_multiple: What height and width of a batch are padded to a multiple of.
        broken: Whether a file that is missing or can't be read, or a mask that does not fit its image, ends the run
            (raise) or is noted and passed over (skip): then the next one is trained on in its place; evaluation images
            are all read once at the start.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.

    Raises:
        InputError: If a folder or file is missing, or the classes are not given once.
    """

    def __init__(
        self,
        path: str,
        preset: Preset | None = None,
        class_names: list[str] | None = None,
        mask_values: dict[int, str | None] | None = None,
        ignored_value: int = 255,
        zero_is_ignored: bool = False,
        short_side: int = 512,
        long_side: int = 2048,
        crop_size: int = 512,
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
        if sum(given is not None for given in (preset, class_names, mask_values)) != 1:
            raise InputError(
                "give one of data.preset (a published set), data.class_names and data.mask_values (a set of your own)"
            )
        self._root = Path(path).expanduser()
        self._layout = (
            own_layout(class_names, mask_values, ignored_value, zero_is_ignored) if preset is None else PRESETS[preset]
        )
        for_training, for_evaluation = segmentation_transforms(train_transforms, short_side, long_side, crop_size)
        super().__init__(
            class_names=self._layout.class_names,
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
        """The folder."""
        return str(self._root)

    def read_splits(self) -> Splits[SegmentationSample]:
        """Returns the images of the folders; without test images, the validation images are the test images."""
        if not self._root.is_dir():
            raise InputError(f"{self._root}: no such folder (data.path)")
        sources = {
            split: MaskFiles(image_folder, mask_folder, self._layout, self._root, split, self._broken, self.reader)
            for split in self._layout.folders
            if (pair := self._folders(split))
            for image_folder, mask_folder in [pair]
        }
        return Splits(sources["train"], sources["val"], sources.get("test", sources["val"]))

    def _folders(self, split: str) -> tuple[Path, Path] | None:
        """The folders of a split's images and masks; None if there is no test split."""
        pairs = self._layout.folders[split]
        for images, masks in pairs:
            if (self._root / images).is_dir() and (self._root / masks).is_dir():
                return self._root / images, self._root / masks
        if split == "test":
            return None
        raise InputError(f"{self._root}: has no folders {pairs[0][0]} and {pairs[0][1]}: check data.path")


class MaskFiles:
    """The images of one split with their masks.

    Args:
        image_folder: Folder of the images.
        mask_folder: Folder of the masks.
        layout: How they are named and what the numbers mean.
        root: The set's folder.
        split: The split, for a layout with lists.
        broken: What becomes of files that are missing.
        reader: Decodes the images.

    Raises:
        InputError: If there are no images, or files are missing and `broken` is "raise".
    """

    def __init__(
        self,
        image_folder: Path,
        mask_folder: Path,
        layout: MaskLayout,
        root: Path,
        split: str,
        broken: BrokenPolicy,
        reader: ImageReader,
    ) -> None:
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
            file = root / layout.lists / f"{split}.txt"
            names = read_list(file)
            where = str(file)
            listed = [contained(image_folder, f"{name}.jpg", where) for name in names]
            images = [image for _, image in with_files(names, listed, broken, where)]
        masks = [in_either_form(mask_folder / _mask_name(path.relative_to(image_folder), layout)) for path in images]
        pairs = with_files(images, masks, broken, where)
        self._images = [str(image) for image, _ in pairs]
        self._masks = [str(mask) for _, mask in pairs]
        self.decoder = MaskDecoder(layout.classes, layout.ignored)
        self._reader = reader

    def __len__(self) -> int:
        return len(self._images)

    def stored(self, index: int) -> Path:
        """Returns the file of an image."""
        return Path(self._images[index])

    def name(self, index: int) -> str:
        """Returns what an error message calls an image."""
        return self._images[index]

    def stored_mask(self, index: int) -> Path:
        """Returns the file of an image's mask."""
        return Path(self._masks[index])

    def mask_name(self, index: int) -> str:
        """Returns what an error message calls an image's mask."""
        return self._masks[index]

    def read(self, key: SampleKey) -> SegmentationSample:
        """Returns an image with its mask."""
        image = self._reader.read(self.stored(key[1]), self.name(key[1]))
        mask = self.decoder.decode(self.stored_mask(key[1]), image, self.mask_name(key[1]))
        return segmentation_sample(image, mask, image_id=key[1])


def _mask_name(image: Path, layout: MaskLayout) -> str:
    name = str(image)
    stem = name.removesuffix(layout.image_suffix) if layout.image_suffix else str(image.with_suffix(""))
    return stem + layout.mask_suffix


def segmentation_transforms(
    train_transforms: list[Transform] | None, short_side: int, long_side: int, crop_size: int
) -> tuple[list[Transform], list[Transform]]:
    """Transforms of training and of evaluation, as the published recipes have them.

    Args:
        train_transforms: The user's transforms of training images, if given.
        short_side: Length of the shorter side.
        long_side: Limit of the longer side.
        crop_size: Side of the window that is trained on.

    Returns:
        Transforms of training and of evaluation.

    Raises:
        InputError: If a length is below 1.
    """
    published: list[Transform] = [
        LargeScaleJitter(short_side, long_side, (0.5, 2.0)),
        WindowCrop(crop_size, crop_size, max_class_share=0.75),
        v2.RandomHorizontalFlip(),
    ]
    resize = ResizeShortSide([short_side], long_side)
    return published if train_transforms is None else train_transforms, [resize]

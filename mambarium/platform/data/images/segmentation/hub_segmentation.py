"""Segmentation data that the `datasets` library opens by name."""

from functools import cached_property
from pathlib import Path

from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.platform.data.core.hub import DataFiles, HubDataSet, ImageColumn, Part, divided_rows
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import BrokenPolicy
from mambarium.platform.data.images.classification.labelled_images import IMAGENET_MEAN, IMAGENET_STD
from mambarium.platform.data.images.dense.dense_images import Splits
from mambarium.platform.data.images.intensity import ImageReader
from mambarium.platform.data.images.segmentation.mask_files import MaskDecoder
from mambarium.platform.data.images.segmentation.mask_folder import segmentation_transforms
from mambarium.platform.data.images.segmentation.mask_layouts import own_layout
from mambarium.platform.data.images.segmentation.segmentation_images import SegmentationImages
from mambarium.platform.data.images.segmentation.segmentation_samples import SegmentationSample, segmentation_sample


class HubSegmentation(SegmentationImages):
    """Masks of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: imagefolder` with `data_dir` and a `metadata.jsonl` that has `image_file_name` and
    `mask_file_name`, `name: parquet` with `data_files`. A mask is an image that holds the number of each pixel's class.
    Images are turned as their EXIF data says, and masks only if their own says so.

    Args:
        name: The data set's name, for instance `merve/scene_parse_150`, or a builder of the library, or a folder.
        class_names: One name per class, for masks that number the classes from 0.
        mask_values: The class of each value that a mask may hold, such as `{0: background, 255: object}`, in place of
            class_names; several values may have one class, `null` is for pixels that don't count. Classes are numbered
            in the order of their lowest values.
        ignored_value: Number of pixels that don't count, unless mask_values has it.
        zero_is_ignored: Whether 0 does not count either and class 0 of class_names has the number 1.
        config: Which configuration of the data set, if it has several.
        data_dir: Folder of the files, for a builder.
        data_files: Files or patterns, alone or by split.
        train_split: The split to train on.
        val_split: The split to validate on; None: `val_fraction` of the training split is held out (chosen by a hash of
            the row number).
        test_split: The split to test on; None: the validation images.
        val_fraction: Part to hold out where there is no validation split.
        image_column: Column of the images.
        mask_column: Column of the masks.
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
        broken: Whether an image that can't be read, or a mask that does not fit it, ends the run (raise) or is noted
            and passed over (skip): then the next one is trained on in its place; evaluation images are all read once at
            the start.
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.

    Raises:
        InputError: If the data set, a split or a column does not exist, or the classes are not given once.
    """

    def __init__(
        self,
        name: str,
        class_names: list[str] | None = None,
        mask_values: dict[int, str | None] | None = None,
        ignored_value: int = 255,
        zero_is_ignored: bool = False,
        config: str | None = None,
        data_dir: str | None = None,
        data_files: DataFiles = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: float = 0.1,
        image_column: str = "image",
        mask_column: str = "mask",
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
        self._columns = (image_column, mask_column)
        self._val_fraction = val_fraction
        layout = own_layout(class_names, mask_values, ignored_value, zero_is_ignored)
        self._decoder = MaskDecoder(layout.classes, layout.ignored)
        self._data_set = HubDataSet(name, config, data_dir, data_files)
        self._split_names = {"train": train_split, "val": val_split, "test": test_split}
        for_training, for_evaluation = segmentation_transforms(train_transforms, short_side, long_side, crop_size)
        super().__init__(
            class_names=layout.class_names,
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
        """The name of the data set."""
        return self._data_set.where

    @cached_property
    def _parts(self) -> dict[str, Part]:
        columns = dict(zip(("image_column", "mask_column"), self._columns, strict=True))
        return self._data_set.parts(self._split_names, columns)

    def read_splits(self) -> Splits[SegmentationSample]:
        """Returns the images of the three splits, or what stands in for a missing one."""
        num_rows = {name: len(part.rows) for name, part in self._parts.items()}
        sources = {
            name: _HubMasks(self._parts[part], self._columns, rows, self._decoder, self.reader)
            for name, (part, rows) in divided_rows(num_rows, self._val_fraction).items()
        }
        return Splits(sources["train"], sources["val"], sources.get("test", sources["val"]))


class _HubMasks:
    """Rows with their masks."""

    def __init__(
        self, part: Part, columns: tuple[str, str], rows: list[int], decoder: MaskDecoder, reader: ImageReader
    ) -> None:
        if not rows:
            raise InputError(f"{part.where}: has no rows")
        self._images = ImageColumn(part, columns[0])
        self._masks = ImageColumn(part, columns[1], option="mask_column")
        self._rows = rows
        self.decoder = decoder
        self._reader = reader

    def __len__(self) -> int:
        return len(self._rows)

    def stored(self, index: int) -> bytes | Path:
        return self._images.stored(self._rows[index])

    def name(self, index: int) -> str:
        return self._images.name(self._rows[index])

    def stored_mask(self, index: int) -> bytes | Path:
        return self._masks.stored(self._rows[index])

    def mask_name(self, index: int) -> str:
        return self._masks.name(self._rows[index])

    def read(self, key: SampleKey) -> SegmentationSample:
        row = self._rows[key[1]]
        image = self._reader.read(self._images.stored(row), self._images.name(row))
        mask = self.decoder.decode(self.stored_mask(key[1]), image, self.mask_name(key[1]))
        return segmentation_sample(image, mask, image_id=row)

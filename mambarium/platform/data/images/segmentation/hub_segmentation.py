"""Segmentation data that the `datasets` library opens by name."""

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.hub import HubData, HubOptions, StoredPart
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.segmentation.mask_files import ImagesWithMasks
from mambarium.platform.data.images.segmentation.segmentation_images import MaskOptions, StoredSegmentation
from mambarium.platform.data.images.stored_images import ImageRows


class HubSegmentationOptions(HubOptions, MaskOptions, total=False):
    """Options of `HubData` and of `StoredSegmentation`."""


class HubSegmentation(HubData, StoredSegmentation):
    """Masks of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: imagefolder` with `data_dir` and a `metadata.jsonl` that has `image_file_name` and
    `mask_file_name`, `name: parquet` with `data_files`. A mask is an image that holds the number of each pixel's class.
    Images are turned as their EXIF data says, and masks only if their own says so.

    Args:
        name: The data set's name, for instance `merve/scene_parse_150`, or a builder of the library, or a folder.
        image_column: Column of the images.
        mask_column: Column of the masks.
        options: Those of `HubData` and of `StoredSegmentation`.

    Raises:
        InputError: If the data set, a split or a column does not exist, or the classes are not given once.
    """

    def __init__(
        self,
        name: str,
        *,
        image_column: str = "image",
        mask_column: str = "mask",
        **options: Inherited[HubSegmentationOptions],
    ) -> None:
        columns = {"image_column": image_column, "mask_column": mask_column}
        super().__init__(name=name, columns=columns, published=None, **options)
        self._image_column, self._mask_column = image_column, mask_column

    def read_splits(self) -> Splits[ImagesWithMasks]:
        return Splits.of({name: self._source(part, rows) for name, (part, rows) in self.divided_parts().items()})

    def _source(self, part: StoredPart, rows: list[int]) -> ImagesWithMasks:
        if not rows:
            raise InputError(f"{part.where}: has no rows")
        return ImagesWithMasks(
            ImageRows(part, self._image_column, rows),
            self.reader,
            ImageRows(part, self._mask_column, rows, option="mask_column"),
            rows,
            self.decoder,
        )

"""Labelled images of data sets that the `datasets` library opens by name."""

from typing import Any

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.hub import HubData, HubOptions, class_names
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.classification.labelled_images import ClassificationImages, ClassificationOptions
from mambarium.platform.data.images.classification.labelled_sources import LabelledImages, labelled_splits
from mambarium.platform.data.images.stored_images import ImageRows


class HubImagesOptions(HubOptions, ClassificationOptions, total=False):
    """Options of `HubData` and of `ClassificationImages`."""


class HubImages(HubData, ClassificationImages):
    """Images of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: imagefolder` with `data_dir`, `name: parquet` with `data_files`. Without a validation split,
    `val_fraction` is held out of each class. Images of any mode and format that Pillow reads are brought to RGB, turned
    as their EXIF data says; stacks of several pages are refused.

    Args:
        name: The data set's name, for instance `uoft-cs/cifar10`, or a builder of the library, or a folder.
        image_column: Column of the images.
        label_column: Column of the classes: class labels, whole numbers or names.
        options: Those of `HubData` and of `ClassificationImages`.

    Raises:
        InputError: If the data set, a split or a column does not exist, or labels are missing.
    """

    def __init__(
        self,
        name: str,
        *,
        image_column: str = "image",
        label_column: str = "label",
        **options: Inherited[HubImagesOptions],
    ) -> None:
        columns = {"image_column": image_column, "label_column": label_column}
        super().__init__(name=name, columns=columns, class_names=None, **options)
        self._image_column, self._label_column = image_column, label_column

    def read_class_names(self) -> list[str]:
        rows, where, _ = self.parts["train"]
        column = self._label_column
        values = rows.unique(column)
        if not values:
            raise InputError(f"{where}: has no rows")
        names = class_names(rows.features[column], values)
        if names is None:
            raise InputError(
                f"{where}: column {column!r} holds {rows.features[column]} with such values as {values[0]!r}, not "
                "classes; set data.label_column"
            )
        if len(names) == 1:
            raise InputError(f"{where}: column {column!r} holds one class alone, {names[0]}; set data.label_column")
        return names

    def read_splits(self) -> Splits[LabelledImages]:
        names = self.found_facts["class_names"]
        sources = {}
        for name, part in self.parts.items():
            images = ImageRows(part, self._image_column, range(len(part.rows)))
            labels = _labels(part.rows, part.where, self._label_column, names)
            sources[name] = LabelledImages(images, self.reader, labels)
        return labelled_splits(sources, self.val_fraction)


def _labels(rows: Any, where: str, column: str, names: list[str]) -> list[int]:
    values = rows[column][:]
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers.get(value, -1) if isinstance(value, str) else value for value in values]
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < len(names):
            raise InputError(
                f"{where}, row {row}: {values[row]!r} in column {column!r} is none of the {len(names)} classes of the "
                "training split"
            )
    return labels

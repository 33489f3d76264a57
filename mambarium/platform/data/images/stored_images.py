"""Images that lie in files or in the rows of a data set, read by index."""

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.core.hub import StoredPart
from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.intensity import ImageReader


@dataclass(eq=False)
class ImageFiles:
    """Files by index, their paths relative to a folder if one is given."""

    files: Sequence[str]
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.files)

    def stored(self, index: int) -> Path:
        return self.folder / self.files[index]

    def name(self, index: int) -> str:
        return str(self.stored(index))

    def chosen(self, indices: Sequence[int]) -> "ImageFiles":
        """Return some of the files, in the given order."""
        return ImageFiles([self.files[index] for index in indices], self.folder)


class ImageRows:
    """The images of one column, some of its rows by index; `option` is the one that names the column.

    Raises:
        InputError: If the column holds something else.
    """

    def __init__(self, part: StoredPart, column: str, rows: Sequence[int], option: str = "image_column") -> None:
        import datasets

        try:
            # Undecoded, so that a broken image is reported by its row.
            self._column = part.rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:  # Arrow's errors derive from these
            raise InputError(
                f"{part.where}: column {column!r} holds {part.rows.features[column]}, not images; set data.{option}"
            ) from error
        self._name = column
        self._where = part.where
        self._folders = part.folders
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return f"{self._where}, row {self._rows[index]}"

    def stored(self, index: int) -> bytes | Path:
        """Return the content of an image file, or its path.

        Raises SampleError if the row has none, or names one outside the data set's folders.
        """
        stored = self._column[self._rows[index]][self._name]
        if stored is None:
            raise SampleError(f"{self.name(index)}: has no image; filter such rows out of the data set")
        if stored["bytes"] is not None:
            return stored["bytes"]
        path = Path(os.path.normpath(Path(stored["path"]).absolute()))
        if not any(path.is_relative_to(folder) for folder in self._folders):
            raise SampleError(
                f"{self.name(index)}: names the file {stored['path']!r}, which does not lie in the data set's folder: "
                "move it there, or store the images themselves in the rows"
            )
        return path

    def chosen(self, indices: Sequence[int]) -> "ImageRows":
        """Return some of the rows, in the given order."""
        chosen = copy(self)
        chosen._rows = [self._rows[index] for index in indices]
        return chosen


@dataclass(eq=False)
class DecodedImages:
    """Stored images, decoded as all of a data set are: what a source of samples adds its annotations to."""

    images: ImageFiles | ImageRows
    reader: ImageReader

    def __len__(self) -> int:
        return len(self.images)

    def stored(self, index: int) -> bytes | Path:
        return self.images.stored(index)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def image(self, index: int) -> Tensor:
        """Decode an image: uint8 (3, height, width)."""
        return self.reader.read(self.stored(index), self.name(index))

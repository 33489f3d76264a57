"""Data sets by name through the `datasets` library: from the Hugging Face hub, or from local files."""

from pathlib import Path
from typing import Any

from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.decoding import decode_image, read_image
from mambarium.platform.data.sample_error import SampleError


def load_rows(
    name: str,
    config: str | None,
    split: str,
    data_dir: str | None,
    data_files: str | list[str] | dict[str, str | list[str]] | None,
) -> Any:
    """Opens one split of a data set.

    Args:
        name: Its name on the hub, or a builder such as "imagefolder", "parquet" or "text", or a folder.
        config: Which of its configurations, if it has several.
        split: The split, slices such as "train[:8000]" included.
        data_dir: Folder of the files, for a builder or to choose among a data set's folders.
        data_files: Files or patterns, alone or by split.

    Returns:
        A `datasets.Dataset`.

    Raises:
        InputError: If there is no such data set, configuration, split or file.
    """
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split, data_dir=data_dir, data_files=data_files)
    # The library's own errors derive from these; its lower layers (Arrow, JSON, the hub client) do too.
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, KeyError) as error:
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = " ".join(str(cause or error).split())
        raise InputError(f"data set {name!r}, split {split!r}: cannot be loaded ({reason})") from error


def require_column(rows: Any, column: str, option: str, where: str) -> None:
    """Checks that a data set has a column.

    Args:
        rows: A `datasets.Dataset`.
        column: The column's name.
        option: The option that names it.
        where: What an error message calls the data set.

    Raises:
        InputError: If there is no such column; it lists those that exist.
    """
    if column not in rows.column_names:
        raise InputError(f"{where}: no column {column!r}; it has {', '.join(rows.column_names)}: set data.{option}")


class ImageColumn:
    """The images of one column, by row.

    Args:
        rows: A `datasets.Dataset`.
        column: The column of the images.
        where: What an error message calls the data set.
        option: The option that names the column.

    Raises:
        InputError: If the column holds something else.
    """

    def __init__(self, rows: Any, column: str, where: str, option: str = "image_column") -> None:
        import datasets

        try:
            # Undecoded, so that a broken image is reported by its row.
            self._rows = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:  # Arrow's errors derive from these
            raise InputError(
                f"{where}: column {column!r} holds {rows.features[column]}, not images: set data.{option}"
            ) from error
        self._column = column
        self._where = where

    def name(self, row: int) -> str:
        """Returns what an error message calls a row."""
        return f"{self._where}, row {row}"

    def encoded(self, row: int) -> bytes | str:
        """Returns the content of an image file, or its path.

        Raises:
            SampleError: If the row has none.
        """
        stored = self._rows[row][self._column]
        if stored is None:
            raise SampleError(f"{self.name(row)}: has no image; filter such rows out of the data set")
        return stored["path"] if stored["bytes"] is None else stored["bytes"]

    def read(self, row: int) -> Tensor:
        """Returns an image as a uint8 tensor (3, height, width).

        Raises:
            SampleError: If the row has none, or it can't be decoded.
        """
        encoded = self.encoded(row)
        return decode_image(encoded, self.name(row)) if isinstance(encoded, bytes) else read_image(Path(encoded))

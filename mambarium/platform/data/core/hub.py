"""Data sets by name through the `datasets` library: from the Hugging Face hub, or from local files."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mambarium.errors import InputError
from mambarium.platform.data.core.sample_error import SampleError
from mambarium.platform.data.core.splits import hold_out

DataFiles = str | list[str] | dict[str, str | list[str]] | None


class Part(NamedTuple):
    """One part of a data set.

    Attributes:
        rows: A `datasets.Dataset`.
        where: What an error message calls it.
        folders: Where files that rows name may lie.
    """

    rows: Any
    where: str
    folders: tuple[Path, ...]


class HubDataSet(NamedTuple):
    """What names a data set.

    Attributes:
        name: Its name on the hub, or a builder such as "imagefolder", "parquet" or "text", or a folder.
        config: Which of its configurations, if it has several.
        data_dir: Folder of the files, for a builder or to choose among a data set's folders.
        data_files: Files or patterns, alone or by split.
    """

    name: str
    config: str | None
    data_dir: str | None
    data_files: DataFiles

    @property
    def where(self) -> str:
        """What an error message calls it."""
        return f"data set {self.name!r}"

    def parts(self, splits: Mapping[str, str | None], columns: Mapping[str, str]) -> dict[str, Part]:
        """Opens the parts that there are.

        Args:
            splits: The split of each part ("train", "val", "test"), slices such as "train[:8000]" included; None: there
                is no such part.
            columns: The columns that every part must have, by the option that names each.

        Raises:
            InputError: If there is no such data set, configuration, split, file or column.
        """
        parts = {}
        for part, split in splits.items():
            if split is None:
                continue
            where = f"{self.where}, split {split!r}"
            rows = self._rows(split)
            for option, column in columns.items():
                if column not in rows.column_names:
                    raise InputError(
                        f"{where}: no column {column!r}; it has {', '.join(rows.column_names)}: set data.{option}"
                    )
            parts[part] = Part(rows, where, self._folders())
        return parts

    def _folders(self) -> tuple[Path, ...]:
        """The folders of the local files, and those in which the library keeps what it downloaded."""
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE

        files = self.data_files.values() if isinstance(self.data_files, dict) else [self.data_files or []]
        patterns = [pattern for given in files for pattern in ([given] if isinstance(given, str) else given)]
        # A pattern's folder is what comes before its first wildcard.
        local = [re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "." for pattern in patterns]
        local += [folder for folder in (self.name, self.data_dir) if folder is not None and Path(folder).is_dir()]
        config = datasets.config
        kept = [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE]
        return tuple(Path(os.path.normpath(Path(folder).absolute())) for folder in [*local, *kept])

    def _rows(self, split: str) -> Any:
        import datasets

        try:
            return datasets.load_dataset(
                self.name, self.config, split=split, data_dir=self.data_dir, data_files=self.data_files
            )
        # The library's own errors derive from these; its lower layers (Arrow, JSON, the hub client) do too.
        except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, KeyError) as error:
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
            reason = " ".join(str(cause or error).split())
            raise InputError(f"{self.where}, split {split!r}: cannot be loaded ({reason})") from error


class RowsOfPart(NamedTuple):
    """The rows that make a part, and the opened part that they lie in."""

    part: str
    rows: list[int]


def divided_rows(num_rows: Mapping[str, int], val_fraction: float) -> dict[str, RowsOfPart]:
    """Finds rows to validate on where a data set has none of its own.

    Args:
        num_rows: Rows of the parts that there are, "train" among them.
        val_fraction: Part of the training rows to hold out where there is no "val", chosen by a hash of the row number.

    Returns:
        The rows of "train", "val", and of "test" if there is one.

    Raises:
        InputError: If nothing is left to hold out.
    """
    divided = {part: RowsOfPart(part, list(range(count))) for part, count in num_rows.items()}
    if "val" not in divided:
        names = [str(row) for row in divided["train"].rows]
        kept, held_out = hold_out([0] * len(names), names, val_fraction)
        divided |= {"train": RowsOfPart("train", kept), "val": RowsOfPart("train", held_out)}
    return divided


class ImageColumn:
    """The images of one column, by row.

    Args:
        part: The part of a data set.
        column: The column of the images.
        option: The option that names the column.

    Raises:
        InputError: If the column holds something else.
    """

    def __init__(self, part: Part, column: str, option: str = "image_column") -> None:
        import datasets

        try:
            # Undecoded, so that a broken image is reported by its row.
            self._rows = part.rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:  # Arrow's errors derive from these
            raise InputError(
                f"{part.where}: column {column!r} holds {part.rows.features[column]}, not images: set data.{option}"
            ) from error
        self._column = column
        self._where = part.where
        self._folders = part.folders

    def name(self, row: int) -> str:
        """Returns what an error message calls a row."""
        return f"{self._where}, row {row}"

    def stored(self, row: int) -> bytes | Path:
        """Returns the content of an image file, or its path.

        Raises:
            SampleError: If the row has none, or names one outside the data set's folders.
        """
        stored = self._rows[row][self._column]
        if stored is None:
            raise SampleError(f"{self.name(row)}: has no image; filter such rows out of the data set")
        if stored["bytes"] is not None:
            return stored["bytes"]
        path = Path(os.path.normpath(Path(stored["path"]).absolute()))
        if not any(path.is_relative_to(folder) for folder in self._folders):
            raise SampleError(
                f"{self.name(row)}: names the file {stored['path']!r}, which does not lie in the data set's folder: "
                "move it there, or store the images themselves in the rows"
            )
        return path

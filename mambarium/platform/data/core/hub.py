"""Data sets by name through the `datasets` library: from the Hugging Face hub, or from local files."""

import os
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.data.core.splits import divided

DataFiles = str | list[str] | dict[str, str | list[str]] | None


class StoredPart(NamedTuple):
    """One part of a data set: a `datasets.Dataset`, its name in messages, and where files that rows name may lie."""

    rows: Any
    where: str
    folders: tuple[Path, ...]


def class_names(feature: Any, values: Collection[Any]) -> list[str] | None:
    """Return the names of a column's classes: those that its type declares, or else its different values.

    Texts name the classes themselves; from numbers, the classes run from 0 to the highest. None: they are neither.
    """
    import datasets

    if isinstance(feature, datasets.ClassLabel) and feature.names:
        return list(feature.names)
    if all(isinstance(value, str) for value in values):
        return sorted(values)
    if all(isinstance(value, int) and value >= 0 for value in values):
        return [str(label) for label in range(max(values) + 1)]
    return None


class HubOptions(TypedDict, total=False):
    """Options of `HubData` beside the name."""

    config: str | None
    data_dir: str | None
    data_files: DataFiles
    train_split: str
    val_split: str | None
    test_split: str | None
    val_fraction: float


class HubData(ExactDataModule):
    """A data set of the `datasets` library, opened by its name; listed before the base class that says what it holds.

    Args:
        name: The data set's name, or a builder of the library such as "imagefolder", "parquet" or "text", or a folder.
        columns: The columns that every part must have, by the option that names each.
        config: Which configuration of the data set, if it has several.
        data_dir: Folder of the files, for a builder or to choose among a data set's folders.
        data_files: Files or patterns, alone or by split.
        train_split: The split to train on, which may be a slice, such as `train[:8000]`.
        val_split: The split to validate on; None: `val_fraction` of the training split is held out.
        test_split: The split to test on; None: the validation data.
        val_fraction: Part of the training split to hold out where there is no validation split, of images chosen by a
            hash of the row number; 0, of images: the test split serves for validation.
        options: Those of the base class that follows.
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, str],
        config: str | None = None,
        data_dir: str | None = None,
        data_files: DataFiles = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._name, self._config, self._data_dir, self._data_files = name, config, data_dir, data_files
        self._split_names = {"train": train_split, "val": val_split, "test": test_split}
        self._columns = dict(columns)
        self.val_fraction = val_fraction

    @property
    def where(self) -> str:
        return f"data set {self._name!r}"

    @cached_property
    def parts(self) -> dict[str, StoredPart]:
        """The parts "train", "val" and "test" that are stored.

        Raises InputError if there is no such data set, configuration, split, file or column.
        """
        parts = {}
        for part, split in self._split_names.items():
            if split is None:
                continue
            where = f"{self.where}, split {split!r}"
            rows = self._loaded(split)
            for option, column in self._columns.items():
                if column not in rows.column_names:
                    raise InputError(
                        f"{where}: no column {column!r}; it has {', '.join(rows.column_names)}; set data.{option}"
                    )
            parts[part] = StoredPart(rows, where, self._folders())
        return parts

    def divided_parts(self) -> dict[str, tuple[StoredPart, list[int]]]:
        """Return the rows of "train", "val" and maybe "test", each with the part that they are stored in."""
        found = divided({name: len(part.rows) for name, part in self.parts.items()}, self.val_fraction)
        return {name: (self.parts[part], rows) for name, (part, rows) in found.items()}

    def _folders(self) -> tuple[Path, ...]:
        """Return the folders of the local files, and those in which the library keeps what it downloaded."""
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE

        files = self._data_files.values() if isinstance(self._data_files, dict) else [self._data_files or []]
        patterns = [pattern for given in files for pattern in ([given] if isinstance(given, str) else given)]
        # A pattern's folder is what comes before its first wildcard.
        local = [re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "." for pattern in patterns]
        local += [folder for folder in (self._name, self._data_dir) if folder is not None and Path(folder).is_dir()]
        config = datasets.config
        kept = [config.HF_CACHE_HOME, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE]
        return tuple(Path(os.path.normpath(Path(folder).absolute())) for folder in [*local, *kept])

    def _loaded(self, split: str) -> Any:
        import datasets

        try:
            return datasets.load_dataset(
                self._name, self._config, split=split, data_dir=self._data_dir, data_files=self._data_files
            )
        # The library's own errors derive from these; its lower layers (Arrow, JSON, the hub client) do too.
        except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, KeyError) as error:
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
            reason = " ".join(str(cause or error).split())
            raise InputError(f"{self.where}, split {split!r}: cannot be loaded ({reason})") from error

"""Data sets by name through the `datasets` library: from the Hugging Face hub, or from local files."""

from typing import Any

from mambarium.errors import InputError


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

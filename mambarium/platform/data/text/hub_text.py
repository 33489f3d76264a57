"""Text of data sets that the `datasets` library opens by name."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from mambarium.errors import InputError
from mambarium.platform.data.core.hub import DataFiles, HubDataSet
from mambarium.platform.data.text.spans import PIECE_BYTES
from mambarium.platform.data.text.text_data import Text, TextSplits
from mambarium.platform.data.text.token_cache import cached_stream
from mambarium.platform.data.text.token_stream import TokenStream


class HubText(Text):
    """A text column of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: parquet` or `name: json` with `data_files`, and so on. A split may be a slice, such as
    `train[:1%]`. Rows follow one another in one stream, each with `separator` after it. The text is tokenised
    once and kept in a cache folder.

    Args:
        name: The data set's name, for instance `Salesforce/wikitext`, or a builder of the library, or a
            folder.
        column: Column of the text.
        config: Which configuration of the data set, if it has several.
        data_dir: Folder of the files, for a builder.
        data_files: Files or patterns, alone or by split.
        train_split: The split to train on.
        val_split: The split to validate on; None: the last `val_fraction` of the training rows.
        test_split: The split to test on; None: the validation text.
        val_fraction: Part of the training rows to hold out where there is no validation split.
        separator: Written after each row, and part of the text; may be a special token of the tokenizer.
        tokenizer: A `tokenizer.json` of the `tokenizers` library; None: bytes.
        cache_dir: Where tokenised text is kept; None: `mambarium/tokens` in the user's cache folder.
        length: Tokens per training window.
        eval_length: Tokens per evaluation window; None: as in training.
        batch_size: Windows per optimisation step, over all processes together.
        passes: How often the run goes through the training text; None if `trainer.max_steps` says the length.
        num_workers: Processes that load windows; 0 loads them in the training process.
        seed: Seed of order and offsets.

    Raises:
        InputError: If the data set, a split or the column does not exist, or the tokenizer file does not
        parse.
    """

    def __init__(
        self,
        name: str,
        column: str = "text",
        config: str | None = None,
        data_dir: str | None = None,
        data_files: DataFiles = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: float = 0.1,
        separator: str = "\n",
        tokenizer: str | None = None,
        cache_dir: str | None = None,
        length: int = 256,
        eval_length: int | None = None,
        batch_size: int = 16,
        passes: float | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            length=length,
            eval_length=eval_length,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )
        if not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction is {val_fraction}: give a number above 0 and below 1")
        self._data_set = HubDataSet(name, config, data_dir, data_files)
        self._column = column
        self._split_names = {"train": train_split, "val": val_split, "test": test_split}
        self._val_fraction = val_fraction
        self._separator = separator
        self._cache_dir = cache_dir

    @property
    def where(self) -> str:
        """The name of the data set."""
        return self._data_set.where

    @cached_property
    def splits(self) -> TextSplits:
        """The tokens of the three splits."""
        train, val = self._stream("train"), self._stream("val")
        return TextSplits(train, val, self._stream("test") if "test" in self._rows else val)

    def raw_text(self, split: str, limit: int) -> bytes:
        """Returns the first bytes of a split."""
        text = bytearray()
        for piece, _ in self._pieces(split if split in self._rows else "val"):
            text += piece
            if len(text) >= limit:
                break
        return bytes(text[:limit])

    @cached_property
    def _rows(self) -> dict[str, Any]:
        """A `datasets.Dataset` for each part that there is, "train" and "val" among them."""
        parts = self._data_set.parts(self._split_names, {"column": self._column})
        for part in parts.values():
            feature = part.rows.features[self._column]
            if getattr(feature, "dtype", None) not in ("string", "large_string"):
                raise InputError(f"{part.where}: column {self._column!r} holds {feature}, not text: set data.column")
        rows = {name: part.rows for name, part in parts.items()}
        if "val" not in rows:
            count = len(rows["train"])
            cut = int(count * (1 - self._val_fraction))
            rows["val"] = rows["train"].select(range(cut, count))
            rows["train"] = rows["train"].select(range(cut))
        return rows

    def _stream(self, part: str) -> TokenStream:
        # The library's fingerprint follows the content of the files and what was selected of them.
        content_key = f"{self._rows[part]._fingerprint} {self._column} {self._separator!r}"
        return cached_stream(lambda: self._pieces(part), content_key, self.found_tokenization, self._cache_dir)

    def _pieces(self, part: str) -> Iterator[tuple[bytes, str]]:
        where = f"{self._data_set.where}, {part} rows"
        piece: list[str] = []
        size = 0
        for row, text in enumerate(self._texts(part)):
            if text is None:
                raise InputError(f"{where}: row {row} has no text; filter such rows out of the data set")
            piece += [text, self._separator]
            size += len(text)
            if size >= PIECE_BYTES:
                yield "".join(piece).encode(), where
                piece, size = [], 0
        if piece:
            yield "".join(piece).encode(), where

    def _texts(self, part: str) -> Iterator[str | None]:
        for rows in self._rows[part].select_columns([self._column]).iter(batch_size=1000):
            yield from rows[self._column]

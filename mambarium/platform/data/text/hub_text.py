"""Text of data sets that the `datasets` library opens by name."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.hub import HubData, HubOptions
from mambarium.platform.data.core.splits import require_fraction
from mambarium.platform.data.text.spans import PIECE_BYTES
from mambarium.platform.data.text.text_data import Text, TextOptions
from mambarium.platform.data.text.token_cache import cached_stream
from mambarium.platform.data.text.token_stream import TokenStream
from mambarium.private_names.datasets import content_key


class HubTextOptions(HubOptions, TextOptions, total=False):
    """Options of `HubData` and of `Text`."""


class HubText(HubData, Text):
    """A text column of a data set by its name on the Hugging Face hub, or of local files likewise.

    Local files: `name: parquet` or `name: json` with `data_files`, and so on. A split may be a slice, such as
    `train[:1%]`. Rows follow one another in one stream, each with `separator` after it. Without a validation
    split the last `val_fraction` of the training rows is held out. The text is tokenised once and kept in a cache
    folder.

    Args:
        name: The data set's name, for instance `Salesforce/wikitext`, or a builder of the library, or a folder.
        column: Column of the text.
        separator: Written after each row, and part of the text; may be a special token of the tokenizer.
        tokenizer: A `tokenizer.json` of the `tokenizers` library; None: bytes.
        cache_dir: Where tokenised text is kept; None: `mambarium/tokens` in the user's cache folder.
        options: Those of `HubData`, and the others of `Text`.

    Raises:
        InputError: If the data set, a split or the column does not exist, or the tokenizer file does not parse.
    """

    def __init__(
        self,
        name: str,
        column: str = "text",
        *,
        separator: str = "\n",
        tokenizer: str | None = None,
        cache_dir: str | None = None,
        **options: Inherited[HubTextOptions],
    ) -> None:
        super().__init__(name=name, columns={"column": column}, tokenizer=tokenizer, **options)
        require_fraction(self.val_fraction)
        self._column = column
        self._separator = separator
        self._cache_dir = cache_dir

    @cached_property
    def texts(self) -> dict[str, Any]:
        """A `datasets.Dataset` for each part that there is, "train" and "val" among them."""
        for part in self.parts.values():
            feature = part.rows.features[self._column]
            if getattr(feature, "dtype", None) not in ("string", "large_string"):
                raise InputError(f"{part.where}: column {self._column!r} holds {feature}, not text; set data.column")
        rows = {name: part.rows for name, part in self.parts.items()}
        if "val" not in rows:
            count = len(rows["train"])
            cut = int(count * (1 - self.val_fraction))
            rows["val"] = rows["train"].select(range(cut, count))
            rows["train"] = rows["train"].select(range(cut))
        return rows

    def stream(self, part: str) -> TokenStream:
        key = f"{content_key(self.texts[part])} {self._column} {self._separator!r}"
        return cached_stream(lambda: self.pieces(part), key, self.found_tokenization, self._cache_dir)

    def pieces(self, part: str) -> Iterator[tuple[bytes, str]]:
        where = f"{self.where}, {part} rows"
        piece: list[str] = []
        size = 0
        batches = self.texts[part].select_columns([self._column]).iter(batch_size=1000)
        texts = (text for batch in batches for text in batch[self._column])
        for row, text in enumerate(texts):
            if text is None:
                raise InputError(f"{where}: row {row} has no text; filter such rows out of the data set")
            piece += [text, self._separator]
            size += len(text)
            if size >= PIECE_BYTES:
                yield "".join(piece).encode(), where
                piece, size = [], 0
        if piece:
            yield "".join(piece).encode(), where

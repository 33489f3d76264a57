"""Text from local files."""

from collections.abc import Iterator
from functools import cached_property

from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.splits import require_fraction
from mambarium.platform.data.text.spans import TextSpan, content_key, cut, find_text, pieces
from mambarium.platform.data.text.text_data import Text, TextOptions
from mambarium.platform.data.text.token_cache import cached_stream
from mambarium.platform.data.text.token_stream import TokenStream


class TextFiles(Text):
    """Text of local files, as bytes (vocabulary 256) or through a tokenizer file.

    Files follow one another in one stream. The text is tokenised once and kept in a cache folder, by its content.

    Args:
        train: Text to train on: a file, a pattern such as `books/**/*.md`, a folder (all its `.txt` files), or a list.
        val: Text to validate on, likewise; None: the last `val_fraction` of the training text.
        test: Text to test on, likewise; None: the validation text.
        val_fraction: Part of the training text to hold out where `val` is not given.
        cache_dir: Where tokenised text is kept; None: `mambarium/tokens` in the user's cache folder.
        options: The others of `Text`.

    Raises:
        InputError: If a file is missing, unreadable or empty, or the tokenizer file does not parse.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        val_fraction: float = 0.1,
        tokenizer: str | None = None,
        cache_dir: str | None = None,
        **options: Inherited[TextOptions],
    ) -> None:
        super().__init__(tokenizer=tokenizer, **options)
        if val is None:
            require_fraction(val_fraction)
        self._patterns = {"train": train, "val": val, "test": test}
        self._val_fraction = val_fraction
        self._cache_dir = cache_dir

    @property
    def where(self) -> str:
        train = self._patterns["train"]
        return train if isinstance(train, str) else ", ".join(train or [])

    @cached_property
    def texts(self) -> dict[str, list[TextSpan]]:
        spans = {part: find_text(patterns) for part, patterns in self._patterns.items() if patterns is not None}
        if "val" not in spans:
            spans["train"], spans["val"] = cut(spans["train"], self._val_fraction)
        return spans

    def pieces(self, part: str) -> Iterator[tuple[bytes, str]]:
        return pieces(self.texts[part])

    def stream(self, part: str) -> TokenStream:
        key = content_key(self.texts[part])
        return cached_stream(lambda: self.pieces(part), key, self.found_tokenization, self._cache_dir)

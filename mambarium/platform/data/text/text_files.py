"""Text from local files."""

from functools import cached_property

from mambarium.errors import InputError
from mambarium.platform.data.text.spans import TextSpan, content_key, cut, find_text, first_bytes, pieces
from mambarium.platform.data.text.text_data import Text, TextSplits
from mambarium.platform.data.text.token_cache import cached_stream
from mambarium.platform.data.text.token_stream import TokenStream


class TextFiles(Text):
    """Text of local files, as bytes (vocabulary 256) or through a tokenizer file.

    Files follow one another in one stream. The text is tokenised once and kept in a cache folder, by its
    content.

    Args:
        train: Text to train on: a file, a pattern such as `books/**/*.md`, a folder (all its `.txt` files),
            or a list.
        val: Text to validate on, likewise; None: the last `val_fraction` of the training text.
        test: Text to test on, likewise; None: the validation text.
        val_fraction: Part of the training text to hold out where `val` is not given.
        tokenizer: A `tokenizer.json` of the `tokenizers` library; None: bytes.
        cache_dir: Where tokenised text is kept; None: `mambarium/tokens` in the user's cache folder.
        length: Tokens per training window.
        eval_length: Tokens per evaluation window; None: as in training.
        batch_size: Windows per optimisation step, over all processes together.
        passes: How often the run goes through the training text; None if `trainer.max_steps` says the length.
        num_workers: Processes that load windows; 0 loads them in the training process.
        seed: Seed of order and offsets.

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
        if val is None and not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction is {val_fraction}: give a number above 0 and below 1")
        self._patterns = {"train": train, "val": val, "test": test}
        self._val_fraction = val_fraction
        self._cache_dir = cache_dir

    @property
    def where(self) -> str:
        """The text to train on."""
        train = self._patterns["train"]
        return train if isinstance(train, str) else ", ".join(train or [])

    @cached_property
    def _spans(self) -> dict[str, list[TextSpan]]:
        spans = {part: find_text(patterns) for part, patterns in self._patterns.items() if patterns is not None}
        if "val" not in spans:
            spans["train"], spans["val"] = cut(spans["train"], self._val_fraction)
        spans.setdefault("test", spans["val"])
        return spans

    @cached_property
    def splits(self) -> TextSplits:
        """The tokens of the three texts."""
        train, val = self._stream("train"), self._stream("val")
        return TextSplits(train, val, val if self._spans["test"] is self._spans["val"] else self._stream("test"))

    def _stream(self, split: str) -> TokenStream:
        spans = self._spans[split]
        return cached_stream(lambda: pieces(spans), content_key(spans), self.found_tokenization, self._cache_dir)

    def raw_text(self, split: str, limit: int) -> bytes:
        """Returns the first bytes of a split."""
        return first_bytes(self._spans[split], limit)

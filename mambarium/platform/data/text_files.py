"""Text from local files."""

from functools import cached_property

from mambarium.errors import InputError
from mambarium.platform.data.text import Text, TextSplits
from mambarium.platform.data.text_spans import content_key, cut, find_text, first_bytes, pieces
from mambarium.platform.data.token_cache import cached_stream
from mambarium.platform.data.token_stream import TokenStream
from mambarium.platform.data.tokenization import ByteTokenization, TokenizerFile


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
            tokenization=ByteTokenization() if tokenizer is None else TokenizerFile(tokenizer),
            length=length,
            eval_length=eval_length,
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )
        self._cache_dir = cache_dir
        training_text = find_text(train)
        if val is not None:
            self._spans = {"train": training_text, "val": find_text(val)}
        else:
            if not 0 < val_fraction < 1:
                raise InputError(f"data.val_fraction is {val_fraction}: give a number above 0 and below 1")
            kept, held_out = cut(training_text, val_fraction)
            self._spans = {"train": kept, "val": held_out}
        self._spans["test"] = self._spans["val"] if test is None else find_text(test)

    @cached_property
    def splits(self) -> TextSplits:
        """The tokens of the three texts."""
        train, val = self._stream("train"), self._stream("val")
        return TextSplits(train, val, val if self._spans["test"] is self._spans["val"] else self._stream("test"))

    def _stream(self, split: str) -> TokenStream:
        spans = self._spans[split]
        return cached_stream(lambda: pieces(spans), content_key(spans), self.tokenization, self._cache_dir)

    def raw_text(self, split: str, limit: int) -> bytes:
        """Returns the first bytes of a split."""
        return first_bytes(self._spans[split], limit)

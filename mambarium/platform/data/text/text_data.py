"""The data module of language modelling; where the text comes from is left to its subclasses."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.data_module import BatchOptions, ExactDataModule, Part, RunOptions
from mambarium.platform.data.core.known_facts import Facts, disagreement
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.text.reference_figures import text_reference_figures
from mambarium.platform.data.text.token_stream import TokenStream
from mambarium.platform.data.text.token_windows import (
    EvaluationWindows,
    TokenWindow,
    TrainingWindows,
    collate_windows,
)
from mambarium.platform.data.text.tokenization import (
    ByteTokenization,
    JsonTokenization,
    Tokenization,
    read_tokenization,
    tokenizer_difference,
)
from mambarium.tasks.batches import IGNORED_TARGET, TokenBatch

REFERENCE_TRAINING_BYTES = 16 * 2**20
"""The reference figures know at most this much of the training text."""

REFERENCE_HELD_OUT_BYTES = 4 * 2**20
"""The reference figures are of at most this much of the validation text."""


class TextOptions(BatchOptions, total=False):
    """Options of `Text` beside the tokenizer."""

    length: int
    eval_length: int | None


class Text(ExactDataModule):
    """A text in windows for next-token prediction.

    Training windows tile the text with an offset drawn for each pass. Evaluation predicts every token but the
    first exactly once, in windows side by side, each of which starts without memory.

    Args:
        tokenizer: A `tokenizer.json` of the `tokenizers` library; None: bytes.
        length: Tokens per training window.
        eval_length: Tokens per evaluation window; None: as in training.
        options: Those of `ExactDataModule`.
    """

    fact_names = ("vocab_size", "tokenizer")

    def __init__(
        self,
        tokenizer: str | None = None,
        length: int = 256,
        eval_length: int | None = None,
        batch_size: int = 16,
        **options: Inherited[RunOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        if length < 1 or (eval_length is not None and eval_length < 1):
            raise InputError(f"data.length is {length}, data.eval_length {eval_length}; give 1 or more")
        self._tokenizer = tokenizer
        self.length = length
        self.eval_length = length if eval_length is None else eval_length

    @cached_property
    def _configured_tokenization(self) -> Tokenization:
        return read_tokenization(self._tokenizer)

    @property
    def found_tokenization(self) -> Tokenization:
        """How text becomes tokens as it is configured, which `found_facts` has read and checked."""
        _ = self.found_facts
        return self._configured_tokenization

    @cached_property
    def tokenization(self) -> Tokenization:
        """How text becomes tokens: that of a restored checkpoint, or else as it is configured."""
        return self._configured_tokenization

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.fact("vocab_size")

    @property
    def facts_need_reading(self) -> bool:
        return self._tokenizer is not None

    def read_facts(self) -> Facts:
        """Find out the tokenizer, all of it, so that a model's prompts need no file."""
        tokenization = self._configured_tokenization
        return {"vocab_size": tokenization.vocab_size, "tokenizer": tokenization.json}

    def require_agreement(self, found: Facts) -> None:
        """Refuse another tokenizer than that of a restored checkpoint, however its file is written."""
        if "tokenizer" in self._restored:
            if difference := tokenizer_difference(found["tokenizer"], self._restored["tokenizer"]):
                raise disagreement(self._tokenizer or self.where, "the tokenizer", difference)
            found = {**found, "tokenizer": self._restored["tokenizer"]}
        super().require_agreement(found)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "tokenizer" in self._restored:
            json = self._restored["tokenizer"]
            self.tokenization = (
                ByteTokenization() if json is None else JsonTokenization(json, "the checkpoint's tokenizer")
            )

    @property
    @abstractmethod
    def texts(self) -> Mapping[str, Any]:
        """The text of "train", of "val" and, if it is another one, of "test"."""

    @abstractmethod
    def pieces(self, part: str) -> Iterator[tuple[bytes, str]]:
        """Give one of the texts piece by piece, each with what an error message calls it."""

    @abstractmethod
    def stream(self, part: str) -> TokenStream:
        """Tokenise one of the texts."""

    @cached_property
    def splits(self) -> Splits[TokenStream]:
        """The tokens of the three texts."""
        return Splits.of({part: self.stream(part) for part in self.texts})

    def raw_text(self, part: str, limit: int) -> bytes:
        """Return the first `limit` bytes of "train", "val" or "test"."""
        text = bytearray()
        for piece, _ in self.pieces(part if part in self.texts else "val"):
            text += piece
            if len(text) >= limit:
                break
        return bytes(text[:limit])

    def prepare_data(self) -> None:
        """Tokenise where that has not been done yet, in one process of a machine before the others look."""
        _ = self.splits

    def samples(self, part: Part) -> TrainingWindows | EvaluationWindows:
        if part == "train":
            return TrainingWindows(self.splits.train, self.length, self.seed, "training text")
        stream, name = (self.splits.val, "validation text") if part == "val" else (self.splits.test, "test text")
        return EvaluationWindows(stream, self.eval_length, name)

    @property
    def collate(self) -> Callable[[list[TokenWindow]], TokenBatch]:
        return collate_windows

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a prompt."""
        return self.tokenization.encode(text)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of token numbers."""
        return self.tokenization.decode(tokens)

    def sample_text(self, index: int, sample: TokenWindow) -> str:
        counted = int((sample.targets != IGNORED_TARGET).sum())
        head = f"--- window {index}: {len(sample.tokens)} tokens, {counted} predicted, {sample.num_bytes} bytes"
        return f"{head}\n{self.decode(sample.tokens.tolist())}"

    def reference_figures(self) -> dict[str, float]:
        return text_reference_figures(
            self.raw_text("train", REFERENCE_TRAINING_BYTES), self.raw_text("val", REFERENCE_HELD_OUT_BYTES)
        )

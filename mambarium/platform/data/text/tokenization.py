"""From text to token numbers and back: bytes, or a tokenizer file."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mambarium.errors import InputError
from mambarium.platform.data.core.known_facts import described_difference

GAPS = 4
"""How many numbers, for each token, a tokenizer file may count."""


class ByteTokenization:
    """Each byte is a token; any file is text, and there is no JSON to keep of it."""

    vocab_size = 256
    fingerprint = "bytes"
    json = None

    def tokenize(self, piece: bytes, name: str) -> tuple[np.ndarray, None]:
        """Return the bytes as numbers, each of which stands for one."""
        return np.frombuffer(piece, dtype=np.uint8), None

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a prompt."""
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """Return the text of bytes; what is not UTF-8 shows as replacement characters."""
        return bytes(tokens).decode(errors="replace")


class JsonTokenization:
    """A tokenizer of the `tokenizers` library, from its JSON text.

    No special tokens are added around a text; those that are written in it count as the tokenizer has them.

    Args:
        text: What a `tokenizer.json` holds.
        name: What an error message calls it.

    Raises:
        InputError: If it does not parse.
    """

    def __init__(self, text: str, name: str) -> None:
        self.json = text
        self._name = name
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        tokens = self.vocabulary()
        self.vocab_size = max(tokens.values(), default=-1) + 1
        if self.vocab_size > GAPS * len(tokens) + 1000:
            raise InputError(
                f"{name}: has {len(tokens)} tokens with numbers up to {self.vocab_size - 1}, each of which a model "
                "would make room for: number the tokens without gaps"
            )

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        with self._refusals():
            tokenizer = Tokenizer.from_str(self.json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def vocabulary(self) -> dict[str, int]:
        """Return the number of each token."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Make one line, with the file, of what the library says against it."""
        try:
            yield
        except BaseException as error:
            # It raises bare Exception, or panics, which is no Exception, and finds some faults when it meets a text.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            reason = " ".join(str(error).split())
            raise InputError(f"{self._name}: not a tokenizer.json of the tokenizers library ({reason})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}

    def tokenize(self, piece: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise UTF-8 text: return token numbers, and the bytes of the piece that each stands for.

        A token stands for the text from the end of the token before it to its own end, the last one for all that is
        left: so the widths add up to the piece exactly, whatever the tokenizer drops, splits or normalises. Without a
        token both are empty.

        Raises:
            InputError: If the piece is not UTF-8, or the tokenizer refuses it.
        """
        try:
            text = piece.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: not UTF-8 text (byte {error.start} of this part); convert it, or train on bytes "
                "without data.tokenizer"
            ) from error
        with self._refusals():
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        tokens = np.array(encoding.ids, dtype=np.int64)
        if not len(tokens):
            return tokens, tokens
        character_widths = [len(character.encode()) for character in text] if len(text) < len(piece) else None
        ends = np.maximum.accumulate([end for _, end in encoding.offsets])  # in characters
        ends[-1] = len(text)
        if character_widths is not None:
            ends = np.concatenate(([0], np.cumsum(character_widths)))[ends]
        return tokens, np.diff(ends, prepend=0)

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a prompt."""
        with self._refusals():
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of token numbers."""
        with self._refusals():
            return str(self._tokenizer.decode(tokens, skip_special_tokens=False))


Tokenization = ByteTokenization | JsonTokenization
"""Turns text into token numbers that together account for every byte of it."""


def read_tokenization(path: str | None) -> Tokenization:
    """Read a `tokenizer.json` of the `tokenizers` library (None: bytes); InputError if it is missing or broken."""
    if path is None:
        return ByteTokenization()
    file = Path(path).expanduser()
    try:
        return JsonTokenization(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise InputError(f"{file}: cannot read this tokenizer file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a tokenizer.json of the tokenizers library ({error})") from error


def tokenizer_difference(found: str | None, restored: str | None) -> str | None:
    """Say how the tokenizers of data and checkpoint (JSON, None: bytes) differ; None: only in how they are written."""
    if found == restored:
        return None
    if found is None or restored is None:
        data, checkpoint = ("bytes" if text is None else "a tokenizer.json" for text in (found, restored))
        return f"data: {data}; checkpoint: {checkpoint}"
    ours, theirs = json.loads(found), json.loads(restored)
    if ours == theirs:
        return None
    vocabularies = [JsonTokenization(text, "tokenizer").vocabulary() for text in (found, restored)]
    tokens, restored_tokens = (sorted(vocabulary, key=vocabulary.__getitem__) for vocabulary in vocabularies)
    if tokens != restored_tokens:
        return described_difference(tokens, restored_tokens)
    parts = sorted(part for part in ours.keys() | theirs.keys() if ours.get(part) != theirs.get(part))
    return f"the same tokens, but another {', '.join(parts)}"

"""From text to token numbers and back: bytes, or a tokenizer file."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mambarium.errors import InputError


class Tokenization(Protocol):
    """Turns text into token numbers that together account for every byte of it."""

    vocab_size: int
    fingerprint: str

    def tokenize(self, piece: bytes, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokenises a piece of text.

        Args:
            piece: The text.
            name: What an error message calls it.

        Returns:
            Token numbers, and the bytes that each stands for (None: one each), which add up to `len(piece)`
            if there are tokens.

        Raises:
            InputError: If the piece is not text that can be tokenised.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the token numbers of a prompt."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of token numbers."""
        ...


class ByteTokenization:
    """Each byte is a token; any file is text."""

    vocab_size = 256
    fingerprint = "bytes"

    def tokenize(self, piece: bytes, name: str) -> tuple[np.ndarray, None]:
        """Returns the bytes as numbers."""
        return np.frombuffer(piece, dtype=np.uint8), None

    def encode(self, text: str) -> list[int]:
        """Returns the UTF-8 bytes of a prompt."""
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of bytes; what is not UTF-8 shows as replacement characters."""
        return bytes(tokens).decode(errors="replace")


class TokenizerFile:
    """A tokenizer of the `tokenizers` library, from its JSON file.

    No special tokens are added around a text; those that are written in it count as the tokenizer has them.

    Args:
        path: The `tokenizer.json`.

    Raises:
        InputError: If there is no such file or it does not parse.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).expanduser()
        try:
            self._json = self._path.read_bytes()
        except OSError as error:
            raise InputError(f"{self._path}: cannot read this tokenizer file ({error.strerror})") from error
        self.fingerprint = hashlib.blake2b(self._json, digest_size=16).hexdigest()
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_buffer(self._json)
        except Exception as error:  # the library raises bare Exception
            reason = " ".join(str(error).split())
            raise InputError(f"{self._path}: not a tokenizer.json of the tokenizers library ({reason})") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}

    def tokenize(self, piece: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokenises UTF-8 text.

        A token stands for the text from the end of the token before it to its own end, the last one for all
        that is
        left: so the widths add up to the piece exactly, whatever the tokenizer drops, splits or normalises.
        """
        try:
            text = piece.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: not UTF-8 text (byte {error.start} of this part); convert it, or train on bytes "
                "without data.tokenizer"
            ) from error
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
        """Returns the token numbers of a prompt."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Returns the text of token numbers."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

"""Tokenised text kept in files, so that a text is tokenised once."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mambarium.errors import InputError
from mambarium.platform.data.text.token_stream import MappedArray, TokenStream
from mambarium.platform.data.text.tokenization import Tokenization

FORMAT = 1
"""Part of the key: raised whenever the files change their meaning."""

Pieces = Callable[[], Iterator[tuple[bytes, str]]]
"""Give a text in pieces of a few megabytes at most, each with what an error message calls it."""


def cached_stream(pieces: Pieces, content_key: str, tokenization: Tokenization, cache_dir: str | None) -> TokenStream:
    """Open the tokens of a text, mapped into memory, which it makes and keeps if they are not kept yet.

    A text's folder is named by a key of its content and its tokenizer, is written under another name first and then
    renamed, so that a reader never sees half a text and two writers do not disturb each other. `pieces` is called
    only if the text has to be tokenised; without `cache_dir` texts are kept in `mambarium/tokens` in the user's cache
    folder.

    Raises:
        InputError: If the cache cannot be written or is damaged, or the text cannot be tokenised.
    """
    key = hashlib.blake2b(f"{FORMAT} {content_key} {tokenization.fingerprint}".encode(), digest_size=16).hexdigest()
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()) / key
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            under_way = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=folder.parent))
        except OSError as error:
            raise _unwritable(folder.parent, error) from error
        try:
            _write(under_way, pieces(), tokenization)
            _move(under_way, folder)
        except OSError as error:
            raise _unwritable(folder.parent, error) from error
        finally:
            shutil.rmtree(under_way, ignore_errors=True)
    return _open(folder)


def default_cache_dir() -> Path:
    """Return `mambarium/tokens` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mambarium" / "tokens"


def _unwritable(cache: Path, error: OSError) -> InputError:
    return InputError(
        f"{cache}: cannot keep tokenised text there ({error.strerror or error}): make room, or set data.cache_dir to "
        "another folder"
    )


def _open(folder: Path) -> TokenStream:
    description = folder / "description.json"
    try:
        described = json.loads(description.read_text())
        arrays = {
            name: MappedArray(folder / f"{name}.bin", np.dtype(dtype)) for name, dtype in described["types"].items()
        }
        whole = all(len(array) == described["num_tokens"] for array in arrays.values())
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise InputError(f"{folder}: this tokenised text is damaged; delete the folder, it will be made anew")
    return TokenStream(arrays["tokens"], arrays.get("widths"))


def _write(folder: Path, pieces: Iterator[tuple[bytes, str]], tokenization: Tokenization) -> None:
    token_type = np.min_scalar_type(max(0, tokenization.vocab_size - 1))
    num_tokens, widest, has_widths = 0, 0, False
    with open(folder / "tokens.bin", "wb") as token_file, open(folder / "widths.raw", "wb") as width_file:
        for tokens, widths in _tokenized(pieces, tokenization):
            token_file.write(tokens.astype(token_type).tobytes())
            num_tokens += len(tokens)
            if widths is not None:
                has_widths = True
                widest = max(widest, int(widths.max()))
                width_file.write(widths.astype(np.int64).tobytes())
        _flush(token_file)
    types = {"tokens": token_type.name}
    if has_widths:
        width_type = np.min_scalar_type(widest)
        types["widths"] = width_type.name
        wide = MappedArray(folder / "widths.raw", np.dtype(np.int64))
        with open(folder / "widths.bin", "wb") as width_file:
            for start in range(0, num_tokens, 2**20):
                width_file.write(wide[start : start + 2**20].astype(width_type).tobytes())
            _flush(width_file)
    os.remove(folder / "widths.raw")
    (folder / "description.json").write_text(json.dumps({"num_tokens": num_tokens, "types": types}))


def _tokenized(
    pieces: Iterator[tuple[bytes, str]], tokenization: Tokenization
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Tokenise piece by piece; the bytes of a piece without tokens go to the token before or after it."""
    held: tuple[np.ndarray, np.ndarray | None] | None = None
    bytes_before_first = 0
    for piece, name in pieces:
        tokens, widths = tokenization.tokenize(piece, name)
        if len(tokens):
            if held is not None:
                yield held
            elif widths is not None:
                widths[0] += bytes_before_first
            held = tokens, widths
        elif held is None:
            bytes_before_first += len(piece)
        elif held[1] is not None:
            held[1][-1] += len(piece)
    if held is not None:
        yield held


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _move(source: Path, target: Path) -> None:
    """Rename a folder unless another process was faster, whose folder then holds the same."""
    try:
        os.rename(source, target)
    except OSError:
        if not target.is_dir():
            raise

"""Parts of text files: found, cut in two, hashed and read piece by piece."""

import codecs
import glob
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from mambarium.errors import InputError

PIECE_BYTES = 2**20
"""About how much of a file is read at once."""

CONTINUATION_BYTES = bytes(range(0x80, 0xC0))
"""Those that no UTF-8 character begins with."""


class TextSpan(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a file."""

    path: Path
    start: int
    stop: int


def find_text(patterns: str | Sequence[str]) -> list[TextSpan]:
    """Find text files by names, glob patterns (`**` goes through folders) and folders: all `.txt` files in them.

    Returns:
        The whole files, in the given order, those of a pattern or folder in the order of their names.

    Raises:
        InputError: If one of them gives no file, or there is no text.
    """
    spans = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = sorted(path.rglob("*.txt"))
            if not files:
                raise InputError(
                    f"{path}: no .txt files in this folder; name others by a pattern, such as {path}/**/*.md"
                )
        elif path.exists():
            files = [path]
        else:
            files = [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]
        if not files:
            raise InputError(f"{path}: no such text file, and no file matches it as a pattern")
        for file in files:
            if file.is_file():
                spans.append(TextSpan(file, 0, file.stat().st_size))
    if not sum(span.stop for span in spans):
        raise InputError(f"{patterns}: there is no text in it")
    return spans


def cut(spans: Sequence[TextSpan], fraction: float) -> tuple[list[TextSpan], list[TextSpan]]:
    """Cut a fraction of a text off its end, never inside a UTF-8 character; return what stays and the end."""
    position = int(sum(span.stop - span.start for span in spans) * (1 - fraction))
    kept, cut_off = [], []
    for span in spans:
        size = span.stop - span.start
        if position >= size:
            kept.append(span)
        elif position <= 0:
            cut_off.append(span)
        else:
            middle = _start_of_character(span, span.start + position)
            kept.append(span._replace(stop=middle))
            cut_off.append(span._replace(start=middle))
        position -= size
    return kept, cut_off


def content_key(spans: Sequence[TextSpan]) -> str:
    """Return a hash of the bytes and of where one file ends and the next begins."""
    digest = blake2b(digest_size=16)
    for span in spans:
        digest.update((span.stop - span.start).to_bytes(8, "little"))
        for piece in _blocks(span):
            digest.update(piece)
    return digest.hexdigest()


def pieces(spans: Sequence[TextSpan]) -> Iterator[tuple[bytes, str]]:
    """Read a text in pieces that end with a line if they can, and never inside a UTF-8 character.

    Yields a piece and the name of its file; raises InputError if a file cannot be read.
    """
    for span in spans:
        rest = b""
        for block in _blocks(span):
            block = rest + block
            end = block.rfind(b"\n") + 1 or codecs.utf_8_decode(block, "replace", False)[1]
            rest = block[end:]
            if end:
                yield block[:end], str(span.path)
        if rest:
            yield rest, str(span.path)


def _blocks(span: TextSpan) -> Iterator[bytes]:
    try:
        with open(span.path, "rb") as file:
            file.seek(span.start)
            left = span.stop - span.start
            while left:
                block = file.read(min(PIECE_BYTES, left))
                if not block:
                    raise InputError(f"{span.path}: became shorter while it was read; start again")
                left -= len(block)
                yield block
    except OSError as error:
        raise InputError(f"{span.path}: cannot be read as text ({error.strerror})") from error


def _start_of_character(span: TextSpan, position: int) -> int:
    """Move a position forward to where a UTF-8 character starts; by three bytes at most."""
    ahead = next(_blocks(span._replace(start=position)), b"")[:3]
    return position + len(ahead) - len(ahead.lstrip(CONTINUATION_BYTES))

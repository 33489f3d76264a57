"""Checkpoint files that are whole or absent: atomic writes, verified reads."""

import hashlib
import io
import os
import zipfile
from collections import OrderedDict
from contextlib import suppress
from io import BufferedRandom
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO
from torch import nn

from mambarium.errors import InputError
from mambarium.files import replaced_atomically

_COMMENT_MARK = b"sha256:"
_COMMENT_SIZE = len(_COMMENT_MARK) + 64
_LENGTH_SIZE = 2
"""An archive without comment ends with the comment's length, two bytes little-endian."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically and refuses damaged ones; a Trainer plugin.

    A checkpoint is written to a temporary file beside its target, forced to the disk, and renamed over the
    target; a crash at any moment leaves the old file or the new one. The file is an ordinary one of
    `torch.save`, a zip archive; its SHA-256 stands in the archive's comment and is verified by each read.
    Files without it, written elsewhere, are verified by the CRC-32 of their records. Reading never unpickles
    foreign objects (`weights_only=True`).

    A file's bytes are read once: what was loaded before training begins is handed over.
    """

    def __init__(self) -> None:
        self._handed_over: tuple[Path, dict[str, Any]] | None = None

    def hand_over(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Let the next read of a file return what was loaded from it already."""
        self._handed_over = (path, checkpoint)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Path | None = None
    ) -> None:
        """Write a checkpoint.

        That it can be loaded again is tried beforehand, with empty tensors in place of the numbers, so that a
        checkpoint that could not be resumed from is found at once and not after the crash.

        The file that is replaced is kept as `storage_options`, if given.

        Raises:
            InputError: If the disk refuses, or the checkpoint holds what `weights_only` loading refuses.
        """
        target = Path(path)
        try:
            check_loadable(checkpoint)
            with replaced_atomically(target, storage_options) as file:
                writer = _DigestingWriter(file)
                torch.save(checkpoint, writer)
                writer.seal()
        except UnpicklingError as error:
            raise InputError(
                f"{target} could not be loaded again, because it would hold foreign objects "
                f"({_cause(error)}); keep plain numbers, strings and tensors in hyper-parameters and states"
            ) from error
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot write checkpoint {target} ({_cause(error)}): see to free space and permissions, "
                "then run the same command again"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read and verify a checkpoint, or return the one that was handed over, once.

        Raises:
            InputError: If the file is missing, damaged, or holds foreign objects.
        """
        if weights_only is False:
            raise InputError("weights_only=False would run code from the checkpoint; leave weights_only out")
        file = Path(path)
        handed_over, self._handed_over = self._handed_over, None
        if handed_over is not None and handed_over[0] == file:
            return handed_over[1]
        try:
            return read_checkpoint(file, map_location or "cpu")
        except DamagedCheckpointError as error:
            raise InputError(f"checkpoint {file} {error}: {_way_out(file)}") from error

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


class DamagedCheckpointError(Exception):
    """What is wrong with a checkpoint file, as the end of a sentence."""


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint file once, verify what was read, and load from that.

    Raises:
        DamagedCheckpointError: If it isn't there, isn't what was written, or is no checkpoint.
        InputError: If the system can't read it, or it holds foreign objects.
    """
    try:
        return torch.load(io.BytesIO(intact_content(path)), map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds foreign objects ({_cause(error)}): only plain tensors, numbers "
            "and strings are loaded; convert it where it was written"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DamagedCheckpointError(f"is damaged ({_cause(error)})") from error


def intact_content(path: Path) -> bytes:
    """Return a checkpoint file's bytes, structure and checksums verified; raises as `read_checkpoint` does."""
    if not path.exists():
        raise DamagedCheckpointError("does not exist")
    if not path.is_file():
        raise DamagedCheckpointError("is no file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"checkpoint {path} cannot be read ({_cause(error)}): see to its permissions and disk"
        ) from None
    if damage := _damage_in(content):
        raise DamagedCheckpointError(damage)
    return content


def _damage_in(content: bytes) -> str | None:
    """Return what is wrong with a file's bytes, as the end of a sentence, or None."""
    comment = content[-_COMMENT_SIZE:]
    expected = comment.removeprefix(_COMMENT_MARK) if comment.startswith(_COMMENT_MARK) else None
    if expected and expected != hashlib.sha256(memoryview(content)[:-_COMMENT_SIZE]).hexdigest().encode():
        return "is damaged (its checksum differs)"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.comment and not expected:
                return "is damaged (its checksum is cut off)"
            if not expected and (bad := archive.testzip()):
                return f"is damaged (checksum of {bad})"
            names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
            return None if "data.pkl" in names else "is no checkpoint (an archive of something else)"
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"is damaged or no checkpoint ({_cause(error)})"


class _DigestingWriter:
    """What `torch.save` writes to: passes a fresh zip archive on to its empty file and takes its SHA-256 on the way."""

    def __init__(self, file: BufferedRandom) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._end = b""

    def write(self, data: bytes | memoryview) -> int:
        """Write some bytes; the last two of all, which `seal` replaces, are no part of the digest."""
        view = memoryview(data).cast("B")
        if len(view) < _LENGTH_SIZE:
            end = self._end + bytes(view)
            self._digest.update(end[:-_LENGTH_SIZE])
            self._end = end[-_LENGTH_SIZE:]
        else:
            self._digest.update(self._end)
            self._digest.update(view[:-_LENGTH_SIZE])
            self._end = bytes(view[-_LENGTH_SIZE:])
        return self._file.write(view)

    def seal(self) -> None:
        """Write the checksum into the archive's comment, which is the end of the file."""
        length = _COMMENT_SIZE.to_bytes(_LENGTH_SIZE, "little")
        self._digest.update(length)
        self._file.seek(-_LENGTH_SIZE, os.SEEK_END)
        self._file.write(length + _COMMENT_MARK + self._digest.hexdigest().encode())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _way_out(path: Path) -> str:
    intact = []
    for other in sorted(set(path.parent.glob("*.ckpt")) - {path}):
        with suppress(DamagedCheckpointError, InputError):
            intact_content(other)
            intact.append(other.name)
    if intact:
        return f"intact beside it: {', '.join(intact)}; copy one over it to go on from there"
    return "no intact checkpoint lies beside it; move the run's folder away or give another name to start afresh"


def _cause(error: Exception) -> str:
    """Return the first line of an error, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def check_loadable(checkpoint: dict[str, Any]) -> None:
    """Raise UnpicklingError if `weights_only` loading would refuse a checkpoint; its numbers are left out for that."""
    file = io.BytesIO()
    torch.save(_without_numbers(checkpoint), file)
    file.seek(0)
    torch.load(file, weights_only=True)


def _without_numbers(value: Any) -> Any:
    """Return the same structure with empty tensors; what isn't plain stays, for that is what may be refused."""
    kind = type(value)
    if kind is torch.Tensor and value.layout == torch.strided and not value.is_quantized:
        return torch.empty(0, dtype=value.dtype)
    if kind is nn.Parameter:
        return nn.Parameter(torch.empty(0, dtype=value.dtype), requires_grad=False)
    if kind is dict or kind is OrderedDict:
        return kind((key, _without_numbers(child)) for key, child in value.items())
    if kind is list or kind is tuple:
        return kind(_without_numbers(child) for child in value)
    return value

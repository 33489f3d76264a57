"""Checkpoint files that are whole or absent: atomic writes, verified reads."""

import hashlib
import os
import zipfile
from io import BufferedRandom
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO

from mambarium.errors import InputError
from mambarium.platform.atomic_files import replaced_atomically

_COMMENT_MARK = b"sha256:"
_COMMENT_SIZE = len(_COMMENT_MARK) + 64


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically and refuses damaged ones; a Trainer plugin.

    A checkpoint is written to a temporary file beside its target, forced to the disk, and renamed over the
    target; a crash at any moment leaves the old file or the new one. The file is an ordinary one of
    `torch.save`, a zip archive; its SHA-256 stands in the archive's comment and is verified before each read.
    Files without it, written elsewhere, are verified by the CRC-32 of their records. Reading never unpickles
    foreign objects (`weights_only=True`).
    """

    def __init__(self) -> None:
        self._read_back = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint.

        The first one of a process is read back before it replaces anything, so that a checkpoint that could
        not be resumed from is found at once and not after the crash.

        Args:
            checkpoint: What to write.
            path: The file.
            storage_options: Must be None.

        Raises:
            InputError: If the disk refuses, or the checkpoint holds what `weights_only` loading refuses.
        """
        if storage_options is not None:
            raise ValueError(f"storage_options: expected None, found {storage_options!r}")
        target = Path(path)
        try:
            with replaced_atomically(target) as file:
                torch.save(checkpoint, file)
                _seal(file)
                if not self._read_back:
                    file.flush()
                    torch.load(file.name, map_location="cpu", weights_only=True)
                    self._read_back = True
        except UnpicklingError as error:
            raise InputError(
                f"{target} could not be loaded again, because it would hold foreign objects "
                f"({_cause(error)}): keep plain numbers, strings and tensors in hyper-parameters and states"
            ) from error
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot write checkpoint {target} ({_cause(error)}): see to free space and permissions, "
                "then run the same command again"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verifies and reads a checkpoint.

        Args:
            path: The file.
            map_location: As in `torch.load`; None loads to the CPU.
            weights_only: None or True.

        Returns:
            The checkpoint.

        Raises:
            InputError: If the file is missing, damaged, or holds foreign objects.
        """
        if weights_only is False:
            raise InputError("weights_only=False would run code from the checkpoint: leave weights_only away")
        file = Path(path)
        if damage := find_damage(file):
            raise InputError(f"checkpoint {file} {damage}: {_way_out(file)}")
        try:
            return torch.load(file, map_location=map_location or "cpu", weights_only=True)
        except UnpicklingError as error:
            raise InputError(
                f"checkpoint {file} holds foreign objects ({_cause(error)}): only plain tensors, numbers "
                "and strings are loaded; convert it where it was written"
            ) from error
        except (RuntimeError, EOFError, ValueError) as error:
            raise InputError(f"checkpoint {file} is damaged ({_cause(error)}): {_way_out(file)}") from error

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Deletes a checkpoint, if it is there.

        Args:
            path: The file.
        """
        Path(path).unlink(missing_ok=True)


def find_damage(path: Path) -> str | None:
    """Verifies a checkpoint file's structure and checksums.

    Args:
        path: The file.

    Returns:
        What is wrong, as the end of a sentence, or None if the file is intact.
    """
    if not path.is_file():
        return "does not exist"
    try:
        if (expected := _checksum_in(path)) and expected != _checksum_of(path):
            return "is damaged (its checksum differs)"
        with zipfile.ZipFile(path) as archive:
            if archive.comment and not expected:
                return "is damaged (its checksum is cut off)"
            if not expected and (bad := archive.testzip()):
                return f"is damaged (checksum of {bad})"
            names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
            return None if "data.pkl" in names else "is no checkpoint (an archive of something else)"
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"is damaged or no checkpoint ({_cause(error)})"
    except OSError as error:
        return f"cannot be read ({_cause(error)})"


def _seal(file: BufferedRandom) -> None:
    """Writes the checksum of a fresh zip archive into its comment, which is the end of the file."""
    file.flush()
    # an archive without comment ends with the comment's length, two bytes little-endian
    file.seek(-2, os.SEEK_END)
    file.write(_COMMENT_SIZE.to_bytes(2, "little"))
    file.flush()
    file.seek(0)
    file.write(_COMMENT_MARK + hashlib.file_digest(file, "sha256").hexdigest().encode())
    file.flush()


def _checksum_in(path: Path) -> str | None:
    """The checksum that a file carries, if it carries one."""
    with path.open("rb") as file:
        file.seek(-min(_COMMENT_SIZE, path.stat().st_size), os.SEEK_END)
        mark, checksum = file.read(len(_COMMENT_MARK)), file.read()
    return checksum.decode(errors="replace") if mark == _COMMENT_MARK else None


def _checksum_of(path: Path) -> str:
    """The checksum that a sealed file should carry: that of all before its comment."""
    digest = hashlib.sha256()
    remaining = path.stat().st_size - _COMMENT_SIZE
    with path.open("rb") as file:
        while remaining > 0 and (block := file.read(min(remaining, 1 << 20))):
            digest.update(block)
            remaining -= len(block)
    return digest.hexdigest()


def _way_out(path: Path) -> str:
    others = [other for other in sorted(path.parent.glob("*.ckpt")) if other != path and find_damage(other) is None]
    if others:
        names = ", ".join(other.name for other in others)
        return f"intact beside it: {names}; copy one over it to go on from there"
    return "no intact checkpoint lies beside it; move the run's folder away or give another name to start afresh"


def _cause(error: Exception) -> str:
    """The first line of an error, short."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]

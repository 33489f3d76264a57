"""Where samples come from, and what becomes of those that can't be read: an error, or a note and another sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from mambarium.errors import InputError
from mambarium.platform.data.core.messages import note, note_of_process
from mambarium.platform.data.core.order import SampleKey

BrokenPolicy = Literal["raise", "skip"]

LISTED_FILES = 5
"""Missing files that a message names."""

Sample = TypeVar("Sample")
SourceSample = TypeVar("SourceSample", covariant=True)
Record = TypeVar("Record")


class SampleError(InputError):
    """A file or row that cannot become a sample, met in a data-loading worker or outside."""


class SampleSource(Protocol[SourceSample]):
    """Samples by pass and index, before they are augmented."""

    def __len__(self) -> int: ...

    def read(self, key: SampleKey) -> SourceSample:
        """Return the sample of a pass and an index; only generated ones differ from pass to pass."""
        ...


class ReplacingBroken(Generic[Sample]):
    """A source that gives, in place of a sample that can't be read, the next one that can: for training.

    Which one that is depends on the data alone. Each process notes each broken sample when it first meets it.

    Raises:
        InputError: If no sample can be read.
    """

    def __init__(self, source: SampleSource[Sample]) -> None:
        self._source = source
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def read(self, key: SampleKey) -> Sample:
        pass_index, first = key
        for offset in range(len(self)):
            index = (first + offset) % len(self)
            try:
                return self._source.read((pass_index, index))
            except SampleError as error:
                if index not in self._broken:
                    self._broken.add(index)
                    note_of_process(f"skipped broken sample {len(self._broken)}: {error}")
        raise _none_readable(self._source)


class OmittingBroken(Generic[Sample]):
    """A source without the samples that can't be read, for evaluation; reads each once to find them.

    Raises:
        InputError: If no sample can be read.
    """

    def __init__(self, source: SampleSource[Sample]) -> None:
        self._source = source
        self._indices: list[int] = []
        for index in range(len(source)):
            try:
                source.read((0, index))
                self._indices.append(index)
            except SampleError as error:
                note(f"skipped broken sample: {error}")
        if not self._indices:
            raise _none_readable(source)
        if len(self._indices) < len(source):
            note(f"{len(source) - len(self._indices)} of {len(source)} evaluation samples are broken and left out")

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, key: SampleKey) -> Sample:
        return self._source.read((key[0], self._indices[key[1]]))


def _none_readable(source: SampleSource[object]) -> InputError:
    return InputError(f"none of the {len(source)} samples can be read; set data.broken to raise to see why")


def with_files(
    records: Sequence[Record], files: Sequence[Path], broken: BrokenPolicy, where: str
) -> list[tuple[Record, Path]]:
    """Return the records whose files exist, with these; `where` says in messages what lists them.

    Raises:
        InputError: If a file is missing and `broken` is "raise" rather than "skip", or all are.
    """
    found = [(record, file) for record, file in zip(records, files, strict=True) if file.is_file()]
    missing = len(files) - len(found)
    if missing:
        names = [str(file) for file in files if not file.is_file()][:LISTED_FILES]
        listed = ", ".join(names) + (", ..." if missing > LISTED_FILES else "")
        if broken == "raise" or not found:
            raise InputError(
                f"{where}: {missing} of {len(files)} files are missing ({listed}); check data.path, "
                "or set data.broken to skip"
            )
        note(f"{where}: left out {missing} of {len(files)} records whose files are missing ({listed})")
    return found

"""What all tasks on images share when they write predictions for a folder of images."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from torch import Tensor

from mambarium.errors import InputError


@dataclass(frozen=True)
class ImagesToPredict:
    """Image files and what a data module knows of them.

    Attributes:
        root: The folder that the files lie in, or below.
        files: All image files, in the order in which they are predicted.
        class_names: Name of each class.
        read: Read a file as the model sees it before normalisation, uint8 (3, height, width).
        category_ids: Number of each class in the annotation file that it was learnt from; None: from 0.
        image_ids: Number of each file in an annotation file; None: from 1.
        numbered_by: The annotation file with these numbers; None if there is none.
    """

    root: Path
    files: Sequence[Path]
    class_names: Sequence[str]
    read: Callable[[Path], Tensor]
    category_ids: Sequence[int] | None = None
    image_ids: Sequence[int] | None = None
    numbered_by: str | None = None

    def pictures(self) -> dict[Path, Path]:
        """Name the picture of each file, relative to a folder of pictures; InputError if two would have the same."""
        names = {file: file.relative_to(self.root).with_suffix(".png") for file in self.files}
        name, count = Counter(names.values()).most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{count} images would be written to {name}; give images different names before the suffix"
            )
        return names


class PredictionWriter(ABC):
    """Writes a task's predictions, batch by batch.

    Args:
        images: The images.
        output: The file or folder to write, which does not exist yet; the folder around it does.

    Attributes:
        file_name: What the output is called among those of several tasks if it is a file; None if it is a folder.
    """

    file_name: ClassVar[str | None] = None

    def __init__(self, images: ImagesToPredict, output: Path) -> None:
        self.images = images
        self.output = output

    @abstractmethod
    def add(self, predictions: Any, batch: Any) -> None:
        """Write the predictions of a batch, or keep them for `finish`."""

    @abstractmethod
    def finish(self) -> str:
        """Write what is left, and return in words what was written."""


@contextmanager
def new_output(output: Path) -> Iterator[Path]:
    """Give a path for what is to become the output when the block ends well.

    A block that fails leaves nothing, so that the same command can be given again.

    Args:
        output: The file or folder to make; its parent folder is made.

    Yields:
        The path to write to, in a folder of its own beside the output.

    Raises:
        InputError: If the output exists, or its place can't be written to.
    """
    taken = InputError(f"{output} exists; give another place with --output, or remove it")
    if output.exists():
        raise taken
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        holder = TemporaryDirectory(prefix=f"{output.name}.", dir=output.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(f"{output} can't be made ({error.strerror}); give another place with --output") from error
    with holder as path:
        made = Path(path) / output.name
        yield made
        if output.exists():
            raise taken
        made.rename(output)

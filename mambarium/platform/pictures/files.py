"""Predictions for a folder of images, written file by file into a folder that appears when all are there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.images.drawing import paint_classes
from mambarium.platform.data.images.image_data import ImageData
from mambarium.platform.pictures.masks import write_mask, write_picture
from mambarium.platform.pictures.predicted import draw_detections
from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.detection.mask_encoding import encode_mask, paste_mask


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder under another name beside the output, which becomes the output when the block ends well.

    A block that fails leaves nothing, so that the same command can be given again.

    Args:
        output: The folder to make; its parent folder is made.

    Yields:
        The folder to write into.

    Raises:
        InputError: If the output exists, or its place can't be written to.
    """
    taken = InputError(f"{output} exists: give another folder with --output, or remove it")
    if output.exists():
        raise taken
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        holder = TemporaryDirectory(prefix=f"{output.name}.", dir=output.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(f"{output} can't be made ({error.strerror}): give another folder with --output") from error
    with holder as path:
        # A folder of its own inside, because temporary ones are closed to other users.
        folder = Path(path) / output.name
        folder.mkdir()
        yield folder
        if output.exists():
            raise taken
        folder.rename(output)


def as_seen(trainer: Trainer, file: Path) -> Tensor:
    """An image, uint8 (3, height, width), as the data module of a prediction reads it."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
    assert isinstance(data, ImageData)
    return data.reader.read(file, str(file))


class ImagePredictionFiles(Callback):
    """What writing predictions needs to know: where each image's files go, and what the classes are called.

    Args:
        images: The folder (or file) that the images lie in.
        files: All image files.
        output: The folder to write into.
        class_names: Name of each class.

    Raises:
        InputError: If two images would give the same file.
    """

    def __init__(self, images: Path, files: Sequence[Path], output: Path, class_names: Sequence[str]) -> None:
        self.root = images if images.is_dir() else images.parent
        self.output = output
        self.class_names = list(class_names)
        counts = Counter(self.name(file) for file in files)
        name, count = counts.most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{count} images would be written to {name}: give images different names before the suffix"
            )

    def name(self, file: Path) -> Path:
        """The path of an image's picture within a folder of the output."""
        return file.relative_to(self.root).with_suffix(".png")


class MaskFiles(ImagePredictionFiles):
    """Writes `masks/<image>.png` with class numbers and `overlays/<image>.png` to look at."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for path, class_map in zip(batch["path"], outputs, strict=True):
            name = self.name(Path(path))
            mask, picture = self.output / "masks" / name, self.output / "overlays" / name
            for file in (mask, picture):
                file.parent.mkdir(parents=True, exist_ok=True)
            class_map = class_map.cpu()
            write_mask(class_map, self.class_names, mask)
            write_picture(paint_classes(as_seen(trainer, Path(path)), class_map, self.class_names), picture)


class DetectionFiles(ImagePredictionFiles):
    """Writes results in COCO's format, what their numbers mean, and `overlays/<image>.png` to look at.

    `detections.json` is a list that `COCO.loadRes` reads, `images.json` lists images and categories as annotation files
    do.

    Args:
        images: The folder (or file) that the images lie in.
        files: All image files.
        output: The folder to write into.
        class_names: Name of each class.
        category_ids: Number of each class in the annotation file it was learnt from.
        image_ids: Number of each image file.

    Raises:
        InputError: If two images would give the same file.
    """

    def __init__(
        self,
        images: Path,
        files: Sequence[Path],
        output: Path,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        image_ids: Sequence[int],
    ) -> None:
        super().__init__(images, files, output, class_names)
        self.category_ids = list(category_ids)
        self.image_ids = dict(zip(files, image_ids, strict=True))
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        found: Detections
        for path, found, (height, width) in zip(batch["path"], outputs, batch["original_size"].tolist(), strict=True):
            file = Path(path)
            image = {"id": self.image_ids[file], "height": height, "width": width}
            self.images.append(image | {"file_name": str(file.relative_to(self.root))})
            self.results += self._results(image, found)
            picture = self.output / "overlays" / self.name(file)
            picture.parent.mkdir(parents=True, exist_ok=True)
            write_picture(draw_detections(as_seen(trainer, file), found, self.class_names), picture)

    def _results(self, image: dict[str, int], found: Detections) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        for index, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
            result = {
                "image_id": image["id"],
                "category_id": self.category_ids[int(found.labels[index])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(found.scores[index]),
            }
            if found.masks is not None:
                mask = paste_mask(found.masks[index], found.boxes[index], (image["height"], image["width"]))
                result |= {"segmentation": encode_mask(mask)}
            results.append(result)
        return results

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        categories = [
            {"id": number, "name": name} for number, name in zip(self.category_ids, self.class_names, strict=True)
        ]
        numbers = {"images": self.images, "categories": categories}
        for name, content in (("detections.json", self.results), ("images.json", numbers)):
            (self.output / name).write_text(json.dumps(content), encoding="utf-8")

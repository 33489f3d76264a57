"""Predictions for a folder of images, written file by file as they are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mambarium.errors import InputError
from mambarium.platform.data.decoding import read_image
from mambarium.platform.pictures.masks import overlay, write_mask, write_picture


class MaskFiles(Callback):
    """Writes `masks/<image>.png` with class numbers and `overlays/<image>.png` to look at.

    Args:
        images: The folder (or file) that the images lie in.
        files: All image files.
        output: The folder to write.

    Raises:
        InputError: If the folder exists, or two images would give the same file.
    """

    def __init__(self, images: Path, files: Sequence[Path], output: Path) -> None:
        if output.exists():
            raise InputError(f"{output} exists: give another folder with --output, or remove it")
        self.root = images if images.is_dir() else images.parent
        self.output = output
        counts = Counter(self._name(file) for file in files)
        name, count = counts.most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{count} images would be written to {name}: give images different names before the suffix"
            )

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
            name = self._name(Path(path))
            mask, picture = self.output / "masks" / name, self.output / "overlays" / name
            for file in (mask, picture):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_mask(class_map, mask)
            write_picture(overlay(read_image(Path(path)), class_map), picture)

    def _name(self, file: Path) -> Path:
        return file.relative_to(self.root).with_suffix(".png")

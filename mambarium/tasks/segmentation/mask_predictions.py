"""What a user gets of predicted class maps: palette PNG files, overlays, pictures beside the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_segmentation_masks

from mambarium.tasks.batches import IGNORED_CLASS
from mambarium.tasks.drawing import MASK_OPACITY, CaptionLine, arrange, class_color, enlarged, with_caption, write_png
from mambarium.tasks.predictions import PredictionWriter

BACKGROUND = "background"
"""Name of a class that is not painted."""

IGNORED_COLOR = (224, 224, 224)
"""Colour of pixels that don't count."""


class MaskFiles(PredictionWriter):
    """Writes `masks/<image>.png` with class numbers and `overlays/<image>.png` to look at."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pictures = self.images.pictures()

    def add(self, predictions: Sequence[Tensor], batch: Any) -> None:
        """Write class maps, for each image uint8 (height, width)."""
        names = self.images.class_names
        for path, class_map in zip(batch["path"], predictions, strict=True):
            name, class_map = self.pictures[Path(path)], class_map.cpu()
            write_mask(class_map, names, self.output / "masks" / name)
            write_png(paint_classes(self.images.read(Path(path)), class_map, names), self.output / "overlays" / name)

    def finish(self) -> str:
        return f"masks and overlays of {len(self.pictures):,} images"


def write_mask(class_map: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Write class numbers uint8 (height, width) as an 8-bit palette PNG: readers see numbers, viewers colours."""
    palette = dict.fromkeys(range(256), (0, 0, 0)) | {IGNORED_CLASS: IGNORED_COLOR}
    palette |= {number: class_color(number) for number in painted_classes(class_map, class_names)}
    image = Image.fromarray(class_map.cpu().numpy()).convert("P")
    image.putpalette([value for color in palette.values() for value in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def draw_classes(image: Tensor, mask: Tensor, class_names: Sequence[str]) -> Tensor:
    """Draw an image with the class of each pixel as a colour on it, and the classes that occur below, as uint8.

    Pixels that don't count, and those of a class that is called background, stay as they are.
    """
    drawn = enlarged(image)
    large = F.resize(mask[None].to(torch.uint8), list(drawn.shape[1:]), F.InterpolationMode.NEAREST)[0]
    captions = [CaptionLine(class_names[number], class_color(number)) for number in painted_classes(large, class_names)]
    return with_caption(paint_classes(drawn, large, class_names), captions)


def classes_beside_truth(truth: Tensor, image: Tensor, predicted: Tensor, class_names: Sequence[str]) -> Tensor:
    """Draw predicted classes (original height, original width) beside a picture of the true ones, as uint8."""
    fitted = F.resize(predicted[None].cpu(), list(image.shape[-2:]), F.InterpolationMode.NEAREST)[0]
    return arrange([truth, draw_classes(image, fitted, class_names)], columns=2)


def paint_classes(image: Tensor, mask: Tensor, class_names: Sequence[str]) -> Tensor:
    """Paint the colours of a mask (height, width) on an image uint8 (3, height, width)."""
    classes = painted_classes(mask, class_names)
    if not classes:
        return image
    masks = torch.stack([mask == number for number in classes])
    return draw_segmentation_masks(image, masks, alpha=MASK_OPACITY, colors=[class_color(n) for n in classes])


def painted_classes(mask: Tensor, class_names: Sequence[str]) -> list[int]:
    """List the classes of a mask that have a colour: not what doesn't count, nor a class called background."""
    numbers = mask.unique().tolist()
    return [number for number in numbers if number != IGNORED_CLASS and class_names[number] != BACKGROUND]

"""What a user gets of predicted classes: a table, and pictures with captions."""

import csv
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mambarium.tasks.drawing import WHITE, CaptionLine, enlarged, with_caption
from mambarium.tasks.predictions import PredictionWriter

CLASSES_PER_IMAGE = 5

RIGHT, WRONG = (96, 255, 96), (255, 96, 96)
"""Colours of a class that is the true one, and of one that isn't."""


class ClassTable(PredictionWriter):
    """Writes a CSV file with one row per image: its path, its likeliest class, the five likeliest and how likely."""

    file_name: ClassVar[str | None] = "classes.csv"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.probabilities: list[Tensor] = []

    def add(self, predictions: Tensor, batch: Any) -> None:
        """Keep class probabilities (batch, classes)."""
        self.probabilities.append(predictions.cpu())

    def finish(self) -> str:
        files, names = self.images.files, self.images.class_names
        shown = min(CLASSES_PER_IMAGE, len(names))
        likeliest = torch.cat(self.probabilities).topk(shown, dim=1)
        # Names of files may be any bytes; what is not UTF-8 in them is written as codes.
        with self.output.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            ranks = [f"{kind}_{rank + 1}" for rank in range(shown) for kind in ("class", "probability")]
            writer.writerow(["path", "class", *ranks])
            for path, values, classes in zip(files, likeliest.values.tolist(), likeliest.indices.tolist(), strict=True):
                pairs = zip(classes, values, strict=True)
                ranked = [cell for number, value in pairs for cell in (names[number], f"{value:.6f}")]
                writer.writerow([path, names[classes[0]], *ranked])
        return f"the classes of {len(files):,} images"


def draw_classified(image: Tensor, class_name: str) -> Tensor:
    """Draw an image (3, height, width), uint8 or floating point in 0 to 1, with its class below, uint8."""
    return with_caption(enlarged(image), [CaptionLine(class_name, WHITE)])


def class_below_truth(truth: Tensor, label: int, logits: Tensor, class_names: Sequence[str]) -> Tensor:
    """Add the likeliest class of logits (classes,) below a picture uint8, green if it is the true one."""
    probability, number = logits.float().softmax(dim=0).max(dim=0)
    found = f"found {class_names[int(number)]} {float(probability):.2f}"
    return with_caption(truth, [CaptionLine(found, RIGHT if int(number) == label else WRONG)])

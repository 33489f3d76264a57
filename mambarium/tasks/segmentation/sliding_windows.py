"""How the classes of whole images are found: at once or window by window, at one scale or several."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mambarium.errors import InputError
from mambarium.tasks.batches import PaddedImages, rows_of_equal_size
from mambarium.tasks.segmentation.segmentation_heads import resized

Scorer = Callable[[Tensor], Tensor]
"""Logits (batch, classes, height, width) of images (batch, 3, height, width), of the images' size."""


@dataclass(frozen=True)
class Inference:
    """How images are looked at in evaluation and prediction.

    Each image is scored at its own size, without the padding of its batch, so the result does not depend on what else
    is in the batch. Scores are brought to the original size before the class is chosen.

    Args:
        window: Height and width of sliding windows whose scores are averaged where they overlap; None scores the whole
            image at once. Smaller images are scored whole.
        stride: Distance between windows; two thirds of the window if None.
        scales: Sizes at which the image is scored, relative to the given one; probabilities are averaged.
        flip: Whether the mirrored image is scored too.

    Raises:
        InputError: If a number is out of range, or a stride is given without a window.
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise InputError(f"window is {self.window}; give the height and width of a window in pixels, or null")
        if self.stride is not None and (self.window is None or not 1 <= self.stride <= self.window):
            raise InputError(f"stride is {self.stride}; give a number of pixels from 1 to the window's {self.window}")
        if not self.scales or not min(self.scales) > 0:
            raise InputError(f"scales are {list(self.scales)}; give numbers above 0, such as [1.0]")

    def class_maps(self, scorer: Scorer, batch: PaddedImages) -> list[Tensor]:
        """Return the likeliest class of each pixel, for each image uint8 (original height, original width)."""
        sizes = torch.cat([batch["valid_size"], batch["original_size"]], dim=1)
        found: dict[int, Tensor] = {}
        for (height, width, *original), members in rows_of_equal_size(sizes).items():
            outputs = list(self._outputs(scorer, batch["image"][members, :, :height, :width]))
            for row, index in enumerate(members):
                resized_outputs = [resized(output[row : row + 1], original)[0] for output in outputs]
                found[index] = self._combined(resized_outputs).argmax(dim=0).to(torch.uint8)
        return [found[index] for index in range(len(sizes))]

    def _outputs(self, scorer: Scorer, images: Tensor) -> Iterator[Tensor]:
        """Logits (batch, classes, height, width) at each scale, the mirrored ones mirrored back."""
        height, width = images.shape[-2:]
        for scale in self.scales:
            scaled = resized(images, (max(1, round(height * scale)), max(1, round(width * scale))))
            yield self._at_one_scale(scorer, scaled)
            if self.flip:
                yield self._at_one_scale(scorer, scaled.flip(-1)).flip(-1)

    @staticmethod
    def _combined(outputs: list[Tensor]) -> Tensor:
        """Logits as they are, or the sum of several outputs' probabilities (classes, height, width)."""
        if len(outputs) == 1:
            return outputs[0]
        return torch.stack([output.float().softmax(dim=0) for output in outputs]).sum(dim=0)

    def _at_one_scale(self, scorer: Scorer, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.window is None or (height <= self.window and width <= self.window):
            return scorer(images)
        stride = max(1, self.window * 2 // 3) if self.stride is None else self.stride
        total: Tensor | None = None
        counts = images.new_zeros(height, width)
        for top in window_starts(height, self.window, stride):
            for left in window_starts(width, self.window, stride):
                place = (..., slice(top, top + self.window), slice(left, left + self.window))
                logits = scorer(images[place]).float()
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], height, width)
                total[place] += logits
                counts[place] += 1
        assert total is not None
        return total / counts


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every `stride`, the last one moved back so that it ends with the side."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / stride) + 1
    return [min(index * stride, length - window) for index in range(count)]

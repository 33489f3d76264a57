"""Scenes of handwritten digits on dark photographs: detection and segmentation on a machine without network."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import Transform

from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.data_module import BatchOptions, Part
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.samples import Sample
from mambarium.platform.data.core.splits import Splits, ranks_in_class
from mambarium.platform.data.images.dense.dense_images import DenseImages
from mambarium.platform.randomness import mixed_seed

EVALUATION_SCENES = 256
"""Scenes to validate on, and as many others to test on."""

MAX_DIGITS = 4
"""Digits that a scene may hold; each number from 1 is as likely."""

BACKGROUND_BRIGHTNESS = (0.1, 0.3)
"""Range of the factor that darkens a photograph."""

DIGIT_SIZE = (0.25, 0.5)
"""Range of a digit's side as a part of the scene's."""

INK = 0.4
"""Opacity from which a pixel belongs to a digit."""

MEAN = (0.147, 0.143, 0.138)
STD = (0.151, 0.144, 0.159)


class Scene(NamedTuple):
    """A picture of digits.

    Attributes:
        image: uint8 (3, size, size).
        labels: int64 (digits,) which digit each is.
        masks: Boolean (digits, size, size) the visible pixels of each, never empty, nowhere overlapping.
    """

    image: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(eq=False)
class DigitScenes(Generic[Sample]):
    """Scenes by index, each a pure function of (seed, pass, index) in training and of the index alone in evaluation.

    Real digits of scikit-learn are enlarged, tinted and pasted on darkened crops of its two photographs. The digits
    are split before pasting, so that no digit is seen in two splits: of each class, in the file's order, the first of
    every ten goes to validation and the sixth to test, the others are trained on (as in `Digits`).
    """

    part: Part
    image_size: int
    num_scenes: int
    seed: int
    annotated: Callable[[Scene, int], Sample]
    """Makes a sample of a scene and its index."""

    def __len__(self) -> int:
        return self.num_scenes

    def name(self, index: int) -> str:
        return f"{self.part} scene {index}"

    def stored(self, index: int) -> None:
        return None

    def read(self, key: SampleKey) -> Sample:
        return self.annotated(self.scene(key), key[1])

    def scene(self, key: SampleKey) -> Scene:
        """Draw the scene of a pass and an index."""
        numbers = (self.seed, *key) if self.part == "train" else (key[1],)
        random = np.random.Generator(np.random.PCG64(mixed_seed(f"{self.part} scene", *numbers)))
        size = self.image_size
        image = self._background(random)  # (3, size, size)
        digits, classes = digits_of(self.part)
        owner = torch.full((size, size), -1)  # which digit a pixel belongs to
        labels: list[int] = []
        taken: list[tuple[int, int, int]] = []  # top, left, side
        for _ in range(random.integers(1, MAX_DIGITS, endpoint=True)):
            index = int(random.integers(len(digits)))
            side = round(size * random.uniform(*DIGIT_SIZE))
            place = _free_place(random, size, side, taken)
            if place is None:
                continue
            taken.append((*place, side))
            opacity = F.interpolate(digits[index][None, None], size=(side, side), mode="bilinear")[0, 0]
            tint = torch.from_numpy(random.uniform(0.3, 1.0, 3)).float()
            tint *= random.uniform(0.7, 1.0) / tint.max()
            rows, columns = slice(place[0], place[0] + side), slice(place[1], place[1] + side)
            image[:, rows, columns] += (tint[:, None, None] - image[:, rows, columns]) * opacity
            owner[rows, columns].masked_fill_(opacity > INK, len(labels))
            labels.append(classes[index])
        masks = owner == torch.arange(len(labels))[:, None, None]  # (digits, size, size)
        visible = masks.flatten(1).any(dim=1)
        return Scene(image.mul_(255).round_().to(torch.uint8), torch.tensor(labels)[visible], masks[visible])

    def _background(self, random: np.random.Generator) -> Tensor:
        """Return a darkened crop (3, size, size) of a photograph, in 0 to 1."""
        photograph = self._photographs[random.integers(len(self._photographs))]
        height, width = photograph.shape[1:]
        top = random.integers(height - self.image_size, endpoint=True)
        left = random.integers(width - self.image_size, endpoint=True)
        crop = photograph[:, top : top + self.image_size, left : left + self.image_size]
        return crop * random.uniform(*BACKGROUND_BRIGHTNESS)

    @cached_property
    def _photographs(self) -> list[Tensor]:
        """Photographs (3, height, width) in 0 to 1, each as it is and up to four times reduced."""
        reduced = [F.avg_pool2d(image, factor) for image in _sample_photographs() for factor in (1, 2, 3, 4)]
        return [image for image in reduced if image.shape[1] >= self.image_size]


def of_part(labels: np.ndarray, part: Part) -> np.ndarray:
    """Say which digits belong to a part, given which they are: both (digits,)."""
    ranks = ranks_in_class(labels) % 10
    return {"val": ranks == 0, "test": ranks == 5, "train": (ranks != 0) & (ranks != 5)}[part]


@cache
def digits_of(part: Part) -> tuple[Tensor, list[int]]:
    """Return the digits of a part (digits, 8, 8) as opacities in 0 to 1, and which they are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = of_part(digits.target, part)
    return torch.from_numpy(digits.images[chosen]).float().div(16), digits.target[chosen].tolist()


@cache
def _sample_photographs() -> list[Tensor]:
    """Two photographs (3, height, width) in 0 to 1."""
    from sklearn.datasets import load_sample_images

    return [torch.tensor(image).permute(2, 0, 1).float().div(255) for image in load_sample_images().images]


def _free_place(
    random: np.random.Generator, size: int, side: int, taken: Sequence[tuple[int, int, int]]
) -> tuple[int, int] | None:
    """Return top and left of a square that covers at most a tenth of the smaller of itself and any taken one."""
    for _ in range(20):
        top, left = random.integers(size - side, size=2, endpoint=True).tolist()
        for other_top, other_left, other_side in taken:
            height = min(top + side, other_top + other_side) - max(top, other_top)
            width = min(left + side, other_left + other_side) - max(left, other_left)
            if height > 0 and width > 0 and height * width > 0.1 * min(side, other_side) ** 2:
                break
        else:
            return top, left
    return None


class DigitSceneImages(DenseImages[Sample]):
    """Handwritten digits on dark photographs (from scikit-learn, no download); listed before the task's base class.

    Each pass brings new training scenes; the 256 validation scenes and the 256 test scenes are always the same. The
    digits are split before pasting, so none is seen in two splits.

    A subclass defines `names_of_classes` and `annotated`.

    Args:
        image_size: Height and width of a scene, 32 or more; small backbones learn 48 to 64 within minutes on a CPU.
        num_scenes: Training scenes in one pass.
        train_transforms: torchvision v2 transforms of training scenes with their boxes and masks; none unless given.
        options: Those of `ExactDataModule`; mean, std and size_multiple of `DenseImages` have other defaults.

    Raises:
        InputError: If a number is out of range.
    """

    names_of_classes: ClassVar[list[str]]

    @staticmethod
    @abstractmethod
    def annotated(scene: Scene, index: int) -> Sample:
        """Make a sample of a scene and its index."""

    def __init__(
        self,
        *,
        image_size: int = 48,
        num_scenes: int = 1024,
        train_transforms: list[Transform] | None = None,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        size_multiple: int = 16,
        **options: Inherited[BatchOptions],
    ) -> None:
        super().__init__(
            class_names=self.names_of_classes,
            train_transforms=train_transforms or [],
            eval_transforms=[],
            mean=mean,
            std=std,
            intensity_range=None,
            size_multiple=size_multiple,
            broken="raise",
            **options,
        )
        if not 32 <= image_size <= 320:
            raise InputError(f"data.image_size is {image_size}; give 32 to 320, 48 or so for a quick run")
        if num_scenes < 1:
            raise InputError(f"data.num_scenes is {num_scenes}; give 1 or more")
        self.image_size = image_size
        self.num_scenes = num_scenes

    def read_splits(self) -> Splits[DigitScenes[Sample]]:
        counts: dict[Part, int] = {"train": self.num_scenes, "val": EVALUATION_SCENES, "test": EVALUATION_SCENES}
        size, seed = self.image_size, self.seed
        return Splits.of({part: DigitScenes(part, size, count, seed, self.annotated) for part, count in counts.items()})

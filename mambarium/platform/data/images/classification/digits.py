"""The handwritten digits that come with scikit-learn: real images on a machine without network."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.data_module import BatchOptions
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.splits import Splits, ranks_in_class
from mambarium.platform.data.images.classification.labelled_images import ClassificationImages
from mambarium.platform.data.images.classification.labelled_sources import LabelledSource, NamedImage


class Digits(ClassificationImages):
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes (UCI optdigits, from scikit-learn).

    The split is fixed and does not depend on the seed: of each class, in the file's order, the first of every
    five digits is held out: 1,433 train, 364 are held out. Validation and test are the same held-out digits.

    Args:
        image_size: Height and width that the digits are enlarged to (bilinear) before the transforms; 8
            leaves them.
        train_transforms: torchvision v2 transforms of training images; none unless given.
        eval_transforms: torchvision v2 transforms of held-out images and of images to predict; None: shorter side
            to `image_size`, centre crop, which leave the digits as they are.
        options: Those of `ExactDataModule`; mean and std of `ImageData` have other defaults.
    """

    def __init__(
        self,
        *,
        image_size: int = 8,
        train_transforms: list[Transform] | None = None,
        eval_transforms: list[Transform] | None = None,
        mean: tuple[float, float, float] = (0.305, 0.305, 0.305),
        std: tuple[float, float, float] = (0.376, 0.376, 0.376),
        **options: Inherited[BatchOptions],
    ) -> None:
        super().__init__(
            class_names=[str(digit) for digit in range(10)],
            image_size=image_size,
            train_transforms=train_transforms or [],
            eval_transforms=eval_transforms,
            mean=mean,
            std=std,
            intensity_range=None,
            cache=False,
            broken="raise",
            **options,
        )

    def read_splits(self) -> Splits[LabelledSource]:
        train, held_out = (_DigitImages(numbers, self.image_size) for numbers in _split(_digits()[1]))
        return Splits(train, held_out, held_out)

    def reference_figures(self) -> dict[str, float]:
        """Return the held-out accuracy of a support vector machine on the raw pixels, same split."""
        from sklearn.svm import SVC

        pixels, labels = _digits()
        train, held_out = _split(labels)
        classifier = SVC(gamma=0.001).fit(pixels[train], labels[train])
        return {"RBF-SVM accuracy": float(classifier.score(pixels[held_out], labels[held_out]))}


class _DigitImages:
    """Some of the digits as RGB images."""

    def __init__(self, numbers: np.ndarray, image_size: int) -> None:
        pixels, labels = _digits()
        grey = torch.from_numpy(pixels[numbers]).view(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
        resize = v2.Resize(image_size, antialias=True)
        self._images = resize(grey.expand(-1, 3, -1, -1)).contiguous()  # (digits, 3, size, size)
        self._numbers = numbers
        self.labels: Sequence[int] = labels[numbers].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, index: int) -> None:
        return None

    def read(self, key: SampleKey) -> NamedImage:
        return NamedImage(self._images[key[1]].clone(), self.labels[key[1]], self.name(key[1]))

    def name(self, index: int) -> str:
        return f"scikit-learn digit {self._numbers[index]}"


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all digits, the pixels of each (digits, 64) from 0 to 16, and which they are (digits,)."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices to train on and to hold out."""
    held_out = ranks_in_class(labels) % 5 == 0
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)

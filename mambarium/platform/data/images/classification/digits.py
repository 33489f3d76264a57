"""The handwritten digits that come with scikit-learn: real images on a machine without network."""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.inherited_options import Inherited
from mambarium.platform.data.core.data_module import BatchOptions
from mambarium.platform.data.core.order import SampleKey
from mambarium.platform.data.core.splits import Splits
from mambarium.platform.data.images.classification.labelled_images import ClassificationImages
from mambarium.platform.data.images.classification.labelled_sources import LabelledSource, NamedImage, Subset


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
        source = _DigitImages(self.image_size)
        train, held_out = _split(source.labels)
        held_out_source = Subset(source, held_out)
        return Splits.of({"train": Subset(source, train), "val": held_out_source})

    def reference_figures(self) -> dict[str, float]:
        """Return the held-out accuracy of a support vector machine on the raw pixels, same split."""
        from sklearn.datasets import load_digits
        from sklearn.svm import SVC

        pixels, labels = load_digits(return_X_y=True)
        train, held_out = _split(labels.tolist())
        classifier = SVC(gamma=0.001).fit(pixels[train], labels[train])
        return {"RBF-SVM accuracy": float(classifier.score(pixels[held_out], labels[held_out]))}


class _DigitImages:
    """All digits as RGB images."""

    def __init__(self, image_size: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)  # (1797, 8, 8)
        resize = v2.Resize(image_size, antialias=True)
        self._images = resize(grey.unsqueeze(1).expand(-1, 3, -1, -1)).contiguous()  # (1797, 3, size, size)
        self.labels: Sequence[int] = digits.target.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, index: int) -> None:
        return None

    def read(self, key: SampleKey) -> NamedImage:
        return NamedImage(self._images[key[1]].clone(), self.labels[key[1]], self.name(key[1]))

    def name(self, index: int) -> str:
        return f"scikit-learn digit {index}"


def _split(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return indices to train on and to hold out."""
    seen = [0] * 10
    held_out = []
    for label in labels:
        held_out.append(seen[label] % 5 == 0)
        seen[label] += 1
    mask = np.array(held_out)
    return np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()

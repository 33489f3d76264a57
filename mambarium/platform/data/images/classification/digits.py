"""The handwritten digits that come with scikit-learn: real images on a machine without network."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Transform

from mambarium.platform.data.images.classification.labelled_images import ClassificationImages
from mambarium.platform.data.images.classification.labelled_sources import ImageSplits, Subset


class Digits(ClassificationImages):
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes (UCI optdigits, from scikit-learn).

    The split is fixed and does not depend on the seed: of each class, in the file's order, the first of every
    five digits is held out: 1,433 train, 364 are held out. Validation and test are the same held-out digits.

    Args:
        batch_size: Samples per optimisation step, over all processes together.
        passes: How often the run goes through the training data; None if `trainer.max_steps` says the length.
        image_size: Height and width that the digits are enlarged to (bilinear) before the transforms; 8
            leaves them.
        train_transforms: torchvision v2 transforms of training images; none unless given.
        eval_transforms: torchvision v2 transforms of held-out images and of images to predict; None: shorter side
            to `image_size`, centre crop, which leave the digits as they are.
        mean: Subtracted per channel, on a scale of 0 to 1.
        std: Divided by per channel, on a scale of 0 to 1.
        num_workers: Processes that load samples; 0 loads them in the training process.
        seed: Seed of order and augmentation.
    """

    def __init__(
        self,
        batch_size: int = 64,
        passes: float | None = None,
        image_size: int = 8,
        train_transforms: list[Transform] | None = None,
        eval_transforms: list[Transform] | None = None,
        mean: tuple[float, float, float] = (0.305, 0.305, 0.305),
        std: tuple[float, float, float] = (0.376, 0.376, 0.376),
        num_workers: int = 0,
        seed: int = 0,
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
            batch_size=batch_size,
            passes=passes,
            num_workers=num_workers,
            seed=seed,
        )

    def read_splits(self) -> ImageSplits:
        """Returns training digits, and the held-out ones twice."""
        source = _DigitImages(self.image_size)
        train, held_out = _split(source.labels)
        held_out_source = Subset(source, held_out)
        return ImageSplits(Subset(source, train), held_out_source, held_out_source)

    def reference_figures(self) -> dict[str, float]:
        """Returns the held-out accuracy of a support vector machine on the raw pixels, same split."""
        from sklearn.datasets import load_digits
        from sklearn.svm import SVC

        pixels, labels = load_digits(return_X_y=True)
        train, held_out = _split(labels.tolist())
        classifier = SVC(gamma=0.001).fit(pixels[train], labels[train])
        return {"RBF-SVM accuracy": float(classifier.score(pixels[held_out], labels[held_out]))}


class _DigitImages:
    """All digits as RGB images."""

    labels: list[int]

    def __init__(self, image_size: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)  # (1797, 8, 8)
        resize = v2.Resize(image_size, antialias=True)
        self._images = resize(grey.unsqueeze(1).expand(-1, 3, -1, -1)).contiguous()  # (1797, 3, size, size)
        self.labels = digits.target.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def stored(self, index: int) -> None:
        return None

    def read(self, index: int) -> Tensor:
        return self._images[index].clone()

    def name(self, index: int) -> str:
        return f"scikit-learn digit {index}"

    def key(self, index: int) -> str:
        return str(index)


def _split(labels: list[int]) -> tuple[list[int], list[int]]:
    """Returns indices to train on and to hold out."""
    seen = [0] * 10
    held_out = []
    for label in labels:
        held_out.append(seen[label] % 5 == 0)
        seen[label] += 1
    mask = np.array(held_out)
    return np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()

"""The published metrics of semantic segmentation, from one confusion matrix over the whole data set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mambarium.errors import InputError
from mambarium.tasks.batches import IGNORED_CLASS, SegmentationBatch
from mambarium.tasks.objective import TaskMetrics, distinct_names


def confusion_matrix(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count pixels, but where the truth is `IGNORED_CLASS`: int64 (true class, predicted class)."""
    counted = truth != IGNORED_CLASS
    pairs = truth[counted].long() * num_classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


class SegmentationMetrics(TaskMetrics):
    """Mean intersection over union and accuracies as ADE20K, Cityscapes and Pascal VOC define them.

    Every counted pixel of every image goes into one matrix of whole numbers, which processes sum: the values do not
    depend on how images are dealt to batches or processes.

    - `mIoU`: mean over classes of the pixels that are of a class and predicted as it, over those that are either.
    - `mean_accuracy`: mean over classes of the share of a class's pixels that are predicted as it.
    - `mIoU_classes`, `mean_accuracy_classes`: number of classes that these means are over.
    - `pixel_accuracy`: share of all pixels that are predicted as what they are.
    - `IoU/<class>`: of one class.

    A class that occurs neither in the truth nor in the predictions has IoU NaN and is left out of the mean; one that
    occurs in predictions alone has IoU 0 and no accuracy.

    Args:
        class_names: One name per class.
    """

    confusion: Tensor

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = distinct_names(class_names)
        empty = torch.zeros(len(self.class_names), len(self.class_names), dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    @property
    def names(self) -> tuple[str, ...]:
        means = [name for mean in ("mIoU", "mean_accuracy") for name in (mean, f"{mean}_classes")]
        return (*means, "pixel_accuracy", *(f"IoU/{name}" for name in self.class_names))

    def update(self, predictions: Sequence[Tensor], batch: SegmentationBatch) -> None:
        """Count class maps, for each image one of the original (height, width)."""
        for predicted, truth in zip(predictions, batch["original_mask"], strict=True):
            self.confusion += confusion_matrix(predicted, truth, len(self.class_names))

    def compute(self) -> dict[str, Tensor]:
        """All values.

        Raises:
            InputError: If no pixel counts.
        """
        if not self.confusion.any():
            raise InputError("none of the evaluated masks has a pixel that counts: mean IoU is not defined")
        confusion = self.confusion.double()
        right, of_class, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        iou = right / (of_class + predicted - right)  # NaN for a class that occurs nowhere
        accuracy = right / of_class
        values = {
            "mIoU": iou.nanmean(),
            "mIoU_classes": (~iou.isnan()).sum(),
            "mean_accuracy": accuracy.nanmean(),
            "mean_accuracy_classes": (~accuracy.isnan()).sum(),
            "pixel_accuracy": right.sum() / confusion.sum(),
        }
        values |= {f"IoU/{name}": iou[index] for index, name in enumerate(self.class_names)}
        return {name: value.float() for name, value in values.items()}

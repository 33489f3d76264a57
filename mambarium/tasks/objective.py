"""What a task asks of a backbone's features: a head, losses, predictions, metrics.

An objective is a plain module. A LightningModule holds one; several on images can share one backbone. What features
and predictions are depends on the task; its metrics know the same predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torchmetrics import Metric

from mambarium.backbones.contract import VisionBackbone
from mambarium.backbones.published.loading import Resized


class PrimaryMetric(NamedTuple):
    """The metric by which runs of a task are ranked, and whether more or less of it is better."""

    name: str
    direction: Literal["max", "min"]


class Objective(nn.Module, ABC):
    """Head, losses and metrics of one task.

    Attributes:
        primary_metric: One of the names that the metrics of `new_metrics` compute.
    """

    primary_metric: PrimaryMetric

    @abstractmethod
    def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
        """Training losses by name, scalars in float32, to be added up."""

    @abstractmethod
    def new_metrics(self) -> TaskMetrics:
        """Empty metrics for one evaluation."""

    def published_names(self) -> dict[str, str]:
        """For names of this objective's state, those that `published.format.Format.head_key` knows; here none."""
        return {}

    def resized(self, parameter_name: str, stored: Tensor) -> Resized | None:
        """A stored parameter of another shape brought to this objective's; None, as here, says that they don't fit."""
        return None


class VisionObjective(Objective):
    """An objective on images, made of a vision backbone and the names of the classes.

    Attributes:
        divisor: `losses` takes a batch, and features of it, whose images are padded with zeros, below and to the right,
            until height and width are multiples of this.
    """

    divisor: int

    @abstractmethod
    def predictions(self, backbone: VisionBackbone, batch: Any) -> Any:
        """What the metrics compare with the batch; an objective may look at an image in parts or more than once."""

    def answers(self, predictions: Any) -> Any:
        """What a user is given of predictions: here the same."""
        return predictions


def distinct_names(class_names: Sequence[str]) -> list[str]:
    """Names of classes by which metrics tell them apart.

    Args:
        class_names: Name of each class.

    Returns:
        The names; where several classes have one, each with the class's number behind it.
    """
    counts = Counter(class_names)
    return [name if counts[name] == 1 else f"{name} (class {index})" for index, name in enumerate(class_names)]


class TaskMetrics(Metric, ABC):
    """All metrics of one evaluation, summed over every sample and process, each sample counted once.

    A figure of what does not occur in the evaluated data, such as a class, is NaN. A mean `<name>` over classes leaves
    such figures out, and `<name>_classes` says over how many it was taken.
    """

    full_state_update = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all values that `compute` gives; empty, as here, where they aren't known beforehand."""
        return ()

    @abstractmethod
    def update(self, predictions: Any, batch: Any) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Values by name over all that was counted."""

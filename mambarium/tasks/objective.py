"""What a task asks of a backbone's features: a head, a loss, metrics.

An objective is a plain module. A LightningModule holds one; several objectives can share one backbone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torchmetrics import Metric


class PrimaryMetric(NamedTuple):
    """The metric by which runs of a task are ranked, and whether more or less of it is better."""

    name: str
    direction: Literal["max", "min"]


class Objective(nn.Module, ABC):
    """Head, loss and metrics of one task.

    Attributes:
        primary_metric: One of the names that the metrics of `new_metrics` compute.
    """

    primary_metric: PrimaryMetric

    @abstractmethod
    def loss(self, predictions: Tensor, batch: Any) -> Tensor:
        """Training loss, a scalar in float32."""

    @abstractmethod
    def new_metrics(self) -> TaskMetrics:
        """Empty metrics for one evaluation."""

    def published_names(self) -> dict[str, str]:
        """For names of this objective's state, those that `published.format.Format.head_key` knows; here none."""
        return {}

    def resized(self, parameter_name: str, stored: Tensor) -> Tensor | None:
        """A stored parameter of another shape brought to this objective's; None, as here, says that they don't fit."""
        return None


class TaskMetrics(Metric, ABC):
    """All metrics of one evaluation, summed over every sample and process, each sample counted once."""

    full_state_update = False

    @abstractmethod
    def update(self, predictions: Tensor, batch: Any) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Values by name over all that was counted."""

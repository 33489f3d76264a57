"""What a task asks of a backbone's features: a head, losses, predictions, metrics.

An objective is a plain module. A LightningModule holds one; several on images can share one backbone. What features
and predictions are depends on the task; its metrics know the same predictions.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from torchmetrics import Metric

from mambarium.backbones.contract import VisionBackbone
from mambarium.backbones.published.loading import Resized
from mambarium.errors import InputError
from mambarium.tasks.predictions import PredictionWriter


class PrimaryMetric(NamedTuple):
    """The metric by which runs of a task are ranked, and whether more or less of it is better."""

    name: str
    direction: Literal["max", "min"]


class Objective(nn.Module, ABC):
    """Head, losses and metrics of one task.

    Args:
        metrics: Metrics of torchmetrics by name, beside the task's own, of what `metric_inputs` gives them.
        primary_metric: Name of the metric that ranks runs, the task's own or one of `metrics`; the task's usual one if
            None.

    Attributes:
        usual_metric: The task's own metric that ranks runs unless another is named.
    """

    usual_metric: ClassVar[PrimaryMetric]

    def __init__(self, metrics: Mapping[str, Metric] | None = None, primary_metric: str | None = None) -> None:
        super().__init__()
        # a plain mapping in a tuple: their states are no part of the model
        self._chosen_metrics = (dict(metrics or {}),)
        self._chosen_primary = primary_metric

    @cached_property
    def primary_metric(self) -> PrimaryMetric:
        """The metric by which runs are ranked.

        Raises:
            InputError: If the chosen one is unknown, or doesn't say whether more or less of it is better.
        """
        name, (chosen,) = self._chosen_primary, self._chosen_metrics
        if name is None:
            return self.usual_metric
        own = self.own_metrics().names
        if name in own:
            return PrimaryMetric(name, "min" if name in LOWER_IS_BETTER else "max")
        if name in chosen:
            higher = chosen[name].higher_is_better
            if higher is None:
                raise InputError(f"primary_metric is {name}, which doesn't say whether more is better; name another")
            return PrimaryMetric(name, "max" if higher else "min")
        near = difflib.get_close_matches(name, [*chosen, *own], n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join([*chosen, *own][:10])}"
        raise InputError(f"primary_metric is {name}, which is no metric of this task; {hint}")

    @abstractmethod
    def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
        """Compute training losses by name, scalars in float32, to be added up."""

    @abstractmethod
    def own_metrics(self) -> TaskMetrics:
        """Make the task's own metrics, empty."""

    def metric_inputs(self, predictions: Any, batch: Any) -> tuple[Any, Any]:
        """Return predictions and targets in the form that torchmetrics' metrics of such a task take.

        Raises:
            InputError: If the task has no such form, as here.
        """
        raise InputError(f"{type(self).__name__} has no form for metrics of torchmetrics; leave out metrics")

    def new_metrics(self) -> TaskMetrics:
        """Make empty metrics for one evaluation; InputError if a chosen one has the name of one of the task's own."""
        (chosen,) = self._chosen_metrics
        own = self.own_metrics()
        if both := sorted(chosen.keys() & set(own.names)):
            raise InputError(f"metrics has {both[0]}, which the task has of its own; give it another name")
        return ChosenMetrics(own, chosen, self.metric_inputs) if chosen else own

    def published_names(self) -> dict[str, str]:
        """For names of this objective's state, those that `published.family.Family.head_key` knows; here none."""
        return {}

    def resized(self, parameter_name: str, stored: Tensor) -> Resized | None:
        """Bring a stored parameter of another shape to this objective's; None, as here, says that they don't fit."""
        return None


class VisionObjective(Objective):
    """An objective on images, made of a vision backbone and the names of the classes.

    Attributes:
        divisor: `losses` takes a batch, and features of it, whose images are padded with zeros, below and to the right,
            until height and width are multiples of this.
        kind: The name of the task, for pictures and messages.
        writer: What writes predictions for a user; None if nothing does.
    """

    divisor: int
    kind: ClassVar[str] = ""
    writer: ClassVar[type[PredictionWriter] | None] = None

    @abstractmethod
    def predictions(self, backbone: VisionBackbone, batch: Any) -> Any:
        """Predict what the metrics compare with the batch; an objective may look at an image in parts or repeatedly."""

    def answers(self, predictions: Any) -> Any:
        """Turn predictions into what a user gets of them: here the same."""
        return predictions

    def draw(self, truth: Tensor, sample: Any, prediction: Any, class_names: Sequence[str]) -> Tensor | None:
        """Draw one sample's prediction beside its truth.

        Args:
            truth: Picture of the sample, uint8 (3, height, width).
            sample: The sample, as its data set gives it.
            prediction: What `predictions` gives for it.
            class_names: One name per class.

        Returns:
            uint8 (3, height, width); None, as here, if such predictions have no picture.
        """
        return None

    def limits(self, most_objects: tuple[int, int]) -> list[str]:
        """Say how many results of an image are made and counted, and where these are fewer than the data holds.

        Args:
            most_objects: The largest number of objects in an image of the data, and of one class in an image.

        Returns:
            Lines for the start of a run; none, as here, where there is no such limit.
        """
        return []


LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")
"""Tasks' own metrics of which less is better."""


def distinct_names(class_names: Sequence[str]) -> list[str]:
    """Return names by which metrics tell classes apart: where several have one, with the class's number behind it."""
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
        """Name all values that `compute` gives; empty, as here, where they aren't known beforehand."""
        return ()

    @abstractmethod
    def update(self, predictions: Any, batch: Any) -> None:
        """Count a batch."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Return values by name over all that was counted."""


class ChosenMetrics(TaskMetrics):
    """A task's own metrics, and copies of metrics of torchmetrics that a user chose.

    A chosen metric that computes several values, as one for each class, gives `<name>/<key>` or `<name>/<index>`.
    `inputs` gives their predictions and targets from a task's predictions and batch.
    """

    def __init__(
        self, own: TaskMetrics, chosen: Mapping[str, Metric], inputs: Callable[[Any, Any], tuple[Any, Any]]
    ) -> None:
        super().__init__()
        self.own = own
        self.chosen = nn.ModuleDict({name: metric.clone() for name, metric in chosen.items()})
        self.inputs = inputs

    def update(self, predictions: Any, batch: Any) -> None:
        self.own.update(predictions, batch)
        given = self.inputs(predictions, batch)
        for metric in self.chosen.values():
            metric.update(*given)  # type: ignore[operator]  # ModuleDict hides that they are metrics

    def compute(self) -> dict[str, Tensor]:
        values = dict(self.own.compute())
        for name, metric in self.chosen.items():
            computed = metric.compute()  # type: ignore[operator]  # likewise
            if isinstance(computed, Mapping):
                values |= {f"{name}/{key}": value for key, value in computed.items() if value.numel() == 1}
            elif computed.numel() == 1:
                values[name] = computed.reshape(())
            else:
                values |= {f"{name}/{index}": value for index, value in enumerate(computed.flatten())}
        return values

    def reset(self) -> None:
        super().reset()
        self.own.reset()
        for metric in self.chosen.values():
            metric.reset()  # type: ignore[operator]  # likewise

"""Image classification: one class per image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from mambarium.backbones.contract import Backbone, VisionBackbone, VisionFeatures
from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.tasks.batches import ImageBatch
from mambarium.tasks.classification.class_predictions import ClassTable, class_below_truth
from mambarium.tasks.classification.mixing import ImageMixing
from mambarium.tasks.objective import PrimaryMetric, TaskMetrics, VisionObjective
from mambarium.tasks.task import TrainingOptions
from mambarium.tasks.vision_task import VisionTask, named_classes, vision_backbone


class ClassificationMetrics(TaskMetrics):
    """Share of images whose class is ranked first (`accuracy`) or among the first five (`top5_accuracy`), mean loss."""

    images: Tensor
    top1: Tensor
    top5: Tensor
    loss_sum: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in ("images", "top1", "top5"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def names(self) -> tuple[str, ...]:
        return ("accuracy", "loss", "top5_accuracy") if self.num_classes > 5 else ("accuracy", "loss")

    def update(self, predictions: Tensor, batch: ImageBatch) -> None:
        """Count logits (batch, num_classes)."""
        logits, labels = predictions.float(), batch["label"]
        ranked = logits.topk(min(5, self.num_classes), dim=1).indices  # (batch, 5)
        hits = ranked == labels[:, None]
        self.images += labels.numel()
        self.top1 += hits[:, 0].sum()
        self.top5 += hits.sum()
        self.loss_sum += F.cross_entropy(logits, labels, reduction="sum").double()

    def compute(self) -> dict[str, Tensor]:
        values = {"accuracy": self.top1 / self.images, "loss": (self.loss_sum / self.images).float()}
        if self.num_classes > 5:
            values["top5_accuracy"] = self.top5 / self.images
        return values


class ClassificationObjective(VisionObjective):
    """A backbone family's own tail and head with cross-entropy.

    Args:
        backbone: The backbone that the objective is for; read, not kept.
        class_names: One name per class.
        label_smoothing: Share of the target spread evenly over all classes, from 0 to below 1.
        metrics: As `Objective` takes them, of logits (batch, num_classes) and labels (batch,).
        primary_metric: As `Objective` takes it.

    Raises:
        InputError: If the smoothing is out of range.
    """

    usual_metric = PrimaryMetric("accuracy", "max")
    divisor = 1
    kind = "classification"
    writer = ClassTable

    def __init__(
        self,
        backbone: VisionBackbone,
        class_names: Sequence[str],
        label_smoothing: float = 0.0,
        metrics: Mapping[str, Metric] | None = None,
        primary_metric: str | None = None,
    ) -> None:
        super().__init__(metrics, primary_metric)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing is {label_smoothing}; give a number from 0 to below 1")
        self.num_classes = len(class_names)
        self.classifier = backbone.classifier(self.num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, features: VisionFeatures) -> Tensor:
        """Compute logits (batch, num_classes)."""
        return self.classifier(features)

    def losses(self, features: VisionFeatures, batch: ImageBatch) -> dict[str, Tensor]:
        """Compute the cross-entropy of logits with labels (batch,) or label shares (batch, num_classes)."""
        logits = self(features).float()
        return {"cross_entropy": F.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing)}

    def predictions(self, backbone: VisionBackbone, batch: ImageBatch) -> Tensor:
        """Compute logits (batch, num_classes)."""
        return self(backbone(batch["image"]))

    def answers(self, predictions: Tensor) -> Tensor:
        """Return class probabilities (batch, num_classes) of logits."""
        return predictions.float().softmax(dim=1)

    def own_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(self.num_classes)

    def metric_inputs(self, predictions: Tensor, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        return predictions.float(), batch["label"]

    def draw(self, truth: Tensor, sample: Any, prediction: Tensor, class_names: Sequence[str]) -> Tensor:
        return class_below_truth(truth, sample.label, prediction, class_names)

    def published_names(self) -> dict[str, str]:
        return {f"classifier.{name}": name for name in self.classifier.state_dict()}


class ImageClassification(VisionTask):
    """Trains a vision backbone to name the class of an image.

    Args:
        backbone: The vision backbone.
        num_classes: Number of classes; the command line takes it from the data.
        class_names: Name of each class; the command line takes them from the data. Numbers if not given.
        label_smoothing: Share of the target spread evenly over all classes, from 0 to below 1.
        mixup: Alpha of mixup, 0 for none. With cutmix too, each batch takes one of the two at random.
        cutmix: Alpha of cutmix, 0 for none.
        metrics: Metrics of torchmetrics by name, beside our own, of logits (batch, num_classes) and labels (batch,).
        primary_metric: Name of the metric that ranks checkpoints and runs; accuracy if not given.
        options: The other arguments of `Task`.

    Raises:
        InputError: If the backbone is no vision backbone, or a number or metric is not as described.
    """

    objective: ClassificationObjective

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        class_names: list[str] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        metrics: dict[str, Metric] | None = None,
        primary_metric: str | None = None,
        **options: Inherited[TrainingOptions],
    ) -> None:
        names = named_classes(num_classes, class_names)
        objective = ClassificationObjective(vision_backbone(backbone), names, label_smoothing, metrics, primary_metric)
        super().__init__(backbone, objective, **options)
        self.mixing = ImageMixing(num_classes, mixup, cutmix)
        self.save_constructor_arguments()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (batch, num_classes) of images (batch, 3, height, width)."""
        return self.objective(self.backbone(images))

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        images, labels = self.mixing(batch["image"], batch["label"])
        return super().training_losses(ImageBatch(image=images, label=labels))

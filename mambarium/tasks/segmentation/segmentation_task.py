"""Semantic segmentation: the class of every pixel."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mambarium.backbones.contract import Backbone, VisionBackbone, VisionFeatures
from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.tasks.batches import IGNORED_CLASS, PaddedImages, SegmentationBatch
from mambarium.tasks.dense.maps import FeatureMaps, pad_images
from mambarium.tasks.objective import PrimaryMetric, VisionObjective
from mambarium.tasks.segmentation.mask_predictions import MaskFiles, classes_beside_truth
from mambarium.tasks.segmentation.segmentation_heads import FCNHead, LightFPNHead, SegmentationHeadFactory, resized
from mambarium.tasks.segmentation.segmentation_losses import SegmentationLoss
from mambarium.tasks.segmentation.segmentation_metrics import SegmentationMetrics
from mambarium.tasks.segmentation.sliding_windows import Inference
from mambarium.tasks.task import TrainingOptions
from mambarium.tasks.vision_task import VisionTask, named_classes, vision_backbone


class SegmentationObjective(VisionObjective):
    """A head on a backbone's normed maps, with an auxiliary head if asked for.

    Args:
        backbone: The backbone that the objective is for; read, not kept.
        class_names: One name per class, at most 255.
        head: Makes the head; `LightFPNHead` if None.
        strides: Strides of the maps that the head sees; those of the backbone if None. A backbone with a single map
            needs them for a pyramid.
        auxiliary_weight: Weight of the loss of a second head on the second coarsest map, which training alone uses;
            0 for none.
        loss: The loss; mean cross-entropy if None.
        inference: How images are looked at in evaluation; whole, once, if None.
        metrics: As `Objective` takes them, of the classes (pixels,) of all pixels that count.
        primary_metric: As `Objective` takes it.

    Raises:
        InputError: If a number is out of range.
    """

    usual_metric = PrimaryMetric("mIoU", "max")
    kind = "segmentation"
    writer = MaskFiles

    def __init__(
        self,
        backbone: VisionBackbone,
        class_names: Sequence[str],
        head: SegmentationHeadFactory | None = None,
        strides: Sequence[int] | None = None,
        auxiliary_weight: float = 0.0,
        loss: SegmentationLoss | None = None,
        inference: Inference | None = None,
        metrics: Mapping[str, Metric] | None = None,
        primary_metric: str | None = None,
    ) -> None:
        super().__init__(metrics, primary_metric)
        self.class_names = list(class_names)
        num_classes = len(self.class_names)
        if not 1 <= num_classes <= IGNORED_CLASS:
            raise InputError(f"num_classes is {num_classes}: segmentation takes 1 to {IGNORED_CLASS} classes")
        if not auxiliary_weight >= 0:
            raise InputError(f"auxiliary_weight is {auxiliary_weight}; give 0 for no auxiliary head, or more")
        self.loss_function = loss or SegmentationLoss()
        weights = self.loss_function.class_weights
        if weights is not None and len(weights) != num_classes:
            raise InputError(f"{len(weights)} class_weights for {num_classes} classes; give one weight per class")
        self.maps = FeatureMaps(backbone.feature_info, strides)
        self.head = (head or LightFPNHead)(self.maps.info, num_classes)
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary_head: FCNHead | None = None
        if auxiliary_weight:
            self.auxiliary_head = FCNHead(self.maps.info[-2:][0].channels, num_classes, norm=self.head.norm)
        self.inference = inference or Inference()
        self.divisor = math.lcm(backbone.size_divisibility, self.maps.info[-1].stride)

    def losses(self, features: VisionFeatures, batch: SegmentationBatch) -> dict[str, Tensor]:
        """Compute losses at the masks' resolution."""
        height, width = batch["image"].shape[-2:]
        maps = self.maps(features, (height, width), batch["valid_size"])
        losses = {"segmentation": self._loss(self.head(maps), batch)}
        if self.auxiliary_head is not None:
            losses["auxiliary"] = self.auxiliary_weight * self._loss(self.auxiliary_head(maps[-2:][0]), batch)
        return losses

    def predictions(self, backbone: VisionBackbone, batch: PaddedImages) -> list[Tensor]:
        """Return for each image uint8 (original height, original width) class numbers."""

        def score(images: Tensor) -> Tensor:
            padded = pad_images(images, self.divisor)
            valid_size = torch.tensor([images.shape[-2:]], device=images.device)
            maps = self.maps(backbone(padded), (padded.shape[-2], padded.shape[-1]), valid_size)
            return resized(self.head(maps), padded.shape[-2:])[..., : images.shape[-2], : images.shape[-1]]

        return self.inference.class_maps(score, batch)

    def own_metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(self.class_names)

    def metric_inputs(self, predictions: list[Tensor], batch: SegmentationBatch) -> tuple[Tensor, Tensor]:
        truth = torch.cat([mask.flatten() for mask in batch["original_mask"]]).long()
        counted = truth != IGNORED_CLASS
        return torch.cat([class_map.flatten() for class_map in predictions]).long()[counted], truth[counted]

    def draw(self, truth: Tensor, sample: Any, prediction: Tensor, class_names: Sequence[str]) -> Tensor:
        return classes_beside_truth(truth, sample["image"].as_subclass(Tensor), prediction, class_names)

    def _loss(self, logits: Tensor, batch: SegmentationBatch) -> Tensor:
        """Compute the loss of logits of any size; masks lack the rows and columns that images were padded by."""
        height, width = batch["mask"].shape[-2:]
        return self.loss_function(resized(logits, batch["image"].shape[-2:])[..., :height, :width], batch["mask"])


class SemanticSegmentation(VisionTask):
    """Trains a vision backbone to name the class of every pixel.

    Args:
        backbone: The vision backbone.
        num_classes: Number of classes, at most 255; the command line takes it from the data.
        class_names: One name per class, for metrics; the command line takes them from the data, otherwise numbers.
        head: The head's class: LightFPNHead (if not given) or UperNetHead.
        strides: Strides of the maps that the head sees; those of the backbone if not given. A backbone with a single
            map (Vim) gets a pyramid this way: [4, 8, 16, 32].
        auxiliary_weight: Weight of the loss of a second head on the second coarsest map, which training alone uses;
            published recipes have 0.4, 0 is none.
        loss: SegmentationLoss with its weights; mean cross-entropy if not given.
        inference: How images are looked at in evaluation: `window` and `stride`, `scales`, `flip`; whole and once if
            not given.
        metrics: Metrics of torchmetrics by name, beside our own, of the classes (pixels,) of all pixels that count.
        primary_metric: Name of the metric that ranks checkpoints and runs; mIoU if not given.
        options: The other arguments of `Task`.

    Raises:
        InputError: If the backbone is no vision backbone, or a number is out of range.
    """

    objective: SegmentationObjective

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        class_names: list[str] | None = None,
        head: SegmentationHeadFactory | None = None,
        strides: list[int] | None = None,
        auxiliary_weight: float = 0.0,
        loss: SegmentationLoss | None = None,
        inference: Inference | None = None,
        metrics: dict[str, Metric] | None = None,
        primary_metric: str | None = None,
        **options: Inherited[TrainingOptions],
    ) -> None:
        objective = SegmentationObjective(
            vision_backbone(backbone),
            named_classes(num_classes, class_names),
            head,
            strides,
            auxiliary_weight,
            loss,
            inference,
            metrics,
            primary_metric,
        )
        super().__init__(backbone, objective, **options)
        self.save_constructor_arguments("head", "loss", "inference")

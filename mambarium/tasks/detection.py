"""Object detection: boxes, and with some detectors masks, of the objects in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from mambarium.backbones.contract import Backbone, VisionBackbone, VisionFeatures
from mambarium.errors import InputError
from mambarium.tasks.average_precision import DetectionMetrics, Frequency
from mambarium.tasks.batches import DetectionBatch, PaddedImages
from mambarium.tasks.heads.detector import Detections, Detector, DetectorFactory, ImageSizes, Objects
from mambarium.tasks.heads.fcos import FCOS
from mambarium.tasks.heads.maps import pad_images
from mambarium.tasks.objective import Objective, PrimaryMetric
from mambarium.tasks.optimization import OptimizerFactory, Schedule
from mambarium.tasks.task import Task

Batch = TypeVar("Batch", PaddedImages, DetectionBatch)


class DetectionObjective(Objective):
    """A detector on a backbone's features, with average precision.

    Args:
        detector: Neck and head.
        class_names: Name of each class.
        class_frequencies: LVIS's frequency of each class ("r", "c", "f"); None for COCO's evaluation.
    """

    primary_metric = PrimaryMetric("AP", "max")

    def __init__(
        self, detector: Detector, class_names: Sequence[str], class_frequencies: Sequence[Frequency] | None = None
    ) -> None:
        super().__init__()
        self.detector = detector
        self.class_names = list(class_names)
        self.class_frequencies = class_frequencies

    @property
    def divisor(self) -> int:
        """Images should be padded to multiples of this."""
        return self.detector.divisor

    def losses(self, features: VisionFeatures, batch: DetectionBatch) -> dict[str, Tensor]:
        """The detector's losses; crowds are not trained on."""
        return self.detector.losses(features, _sizes(batch), objects_of(batch))

    def predictions(self, features: VisionFeatures, batch: PaddedImages) -> list[Detections]:
        """What is in each image, in the coordinates of the original ones."""
        found = self.detector.detect(features, _sizes(batch))
        scales = batch["original_size"].flip(1) / batch["valid_size"].flip(1)  # (batch, 2) of x and y
        return [
            each._replace(boxes=each.boxes * scale.repeat(2).to(each.boxes))
            for each, scale in zip(found, scales, strict=True)
        ]

    def new_metrics(self) -> DetectionMetrics:
        return DetectionMetrics(self.class_names, self.detector.predicts_masks, self.class_frequencies)


def _sizes(batch: PaddedImages) -> ImageSizes:
    height, width = batch["image"].shape[-2:]
    return ImageSizes((height, width), batch["valid_size"])


def objects_of(batch: DetectionBatch) -> list[Objects]:
    """The objects of each image that a detector is trained on: all but crowds."""
    objects = []
    for index, crowd in enumerate(batch["crowd"]):
        single = ~crowd.bool()
        masks = None if batch["masks"] is None else batch["masks"][index][single]
        objects.append(Objects(batch["boxes"][index][single].float(), batch["labels"][index][single], masks))
    return objects


class ObjectDetection(Task):
    """Trains a vision backbone and a detector to find the objects in images.

    Args:
        backbone: The vision backbone.
        num_classes: Number of classes; the command line takes it from the data.
        class_names: Name of each class; the command line takes them from the data. Numbers if not given.
        class_frequencies: Frequency of each class ("r", "c", "f") for LVIS's evaluation; the command line takes them
            from the data. COCO's evaluation if not given.
        detector: Neck and head: FCOS (if not given), RetinaNet, FasterRCNN, MaskRCNN, CascadeMaskRCNN.
        optimizer: Optimiser, for example `class_path: torch.optim.AdamW`; AdamW with its defaults if not given. Norms,
            biases, embeddings and state-space parameters never get weight decay.
        schedule: Learning-rate schedule over the whole run: WarmupCosine, WarmupLinear, WarmupSteps or Constant (if not
            given).

    Raises:
        InputError: If the backbone is no vision backbone, or the classes' names or frequencies are not one for each.
    """

    objective: DetectionObjective
    backbone: VisionBackbone

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        class_names: list[str] | None = None,
        class_frequencies: list[Frequency] | None = None,
        detector: DetectorFactory | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not isinstance(backbone, VisionBackbone):
            raise InputError(f"{type(backbone).__name__} is not a vision backbone: detection takes Vim, MambaOut, ...")
        names = [str(number) for number in range(num_classes)] if class_names is None else class_names
        for given, what in ((names, "class_names"), (class_frequencies, "class_frequencies")):
            if given is not None and len(given) != num_classes:
                raise InputError(f"{what} has {len(given)} entries for {num_classes} classes: give one for each class")
        objective = DetectionObjective((detector or FCOS)(backbone.feature_info, num_classes), names, class_frequencies)
        super().__init__(backbone, objective, optimizer, schedule)
        self.divisor = math.lcm(backbone.size_divisibility, objective.divisor)
        self.save_constructor_arguments()

    def training_losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        padded = self._padded(batch)
        features = self.backbone(padded["image"])
        return self.objective.losses(features, padded) | features.auxiliary_losses

    def predictions(self, batch: PaddedImages) -> list[Detections]:
        padded = self._padded(batch)
        return self.objective.predictions(self.backbone(padded["image"]), padded)

    def predict_step(self, batch: PaddedImages) -> list[Detections]:
        """What is in each image, in the coordinates of the original ones."""
        return self.predictions(batch)

    def _padded(self, batch: Batch) -> Batch:
        padded = batch.copy()
        padded["image"] = pad_images(batch["image"], self.divisor)
        return padded

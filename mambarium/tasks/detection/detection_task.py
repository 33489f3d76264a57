"""Object detection: boxes, and with some detectors masks, of the objects in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from mambarium.backbones.contract import Backbone, VisionBackbone, VisionFeatures
from mambarium.errors import InputError
from mambarium.tasks.batches import DetectionBatch, PaddedImages, rows_of_equal_size
from mambarium.tasks.dense.maps import pad_images, padded_batch
from mambarium.tasks.detection.average_precision import DetectionMetrics, Frequency
from mambarium.tasks.detection.detector import Detections, DetectorFactory, ImageSizes, Objects
from mambarium.tasks.detection.fcos import FCOS
from mambarium.tasks.objective import PrimaryMetric, VisionObjective
from mambarium.tasks.optimization import OptimizerFactory, Schedule
from mambarium.tasks.task import Task


class DetectionObjective(VisionObjective):
    """A detector on a backbone's features, with average precision.

    Args:
        backbone: The backbone that the objective is for; read, not kept.
        class_names: Name of each class.
        detector: Neck and head: FCOS (if not given), RetinaNet, YOLO, FasterRCNN, MaskRCNN, CascadeMaskRCNN.
        class_frequencies: LVIS's frequency of each class ("r", "c", "f"); None for COCO's evaluation, which
            data of the LVIS kind refuses. The command line takes them from the data.
        counted_detections: How many detections average precision counts, the surest first: COCO's of each class in an
            image (100 if None), LVIS's in an image (300). The detector has a limit of its own, `detections_per_image`.

    Raises:
        InputError: If there is not one frequency for each class, or no detection would count.
    """

    primary_metric = PrimaryMetric("AP", "max")

    def __init__(
        self,
        backbone: VisionBackbone,
        class_names: Sequence[str],
        detector: DetectorFactory | None = None,
        class_frequencies: Sequence[Frequency] | None = None,
        counted_detections: int | None = None,
    ) -> None:
        super().__init__()
        if counted_detections is not None and counted_detections < 1:
            raise InputError(f"counted_detections is {counted_detections}: give 1 or more")
        self.counted_detections = counted_detections
        self.detector = (detector or FCOS)(backbone.feature_info, len(class_names))
        self.divisor = math.lcm(backbone.size_divisibility, self.detector.divisor)
        self.class_names = list(class_names)
        self.class_frequencies: Sequence[Frequency] | None = None
        self.take_frequencies(class_frequencies)

    def take_frequencies(self, class_frequencies: Sequence[Frequency] | None) -> None:
        """Evaluate as LVIS does from now on, with the frequencies of the data, unless some were given before.

        Args:
            class_frequencies: The frequency of each class; None changes nothing.

        Raises:
            InputError: If there is not one for each class.
        """
        if class_frequencies is None or self.class_frequencies is not None:
            return
        if len(class_frequencies) != len(self.class_names):
            raise InputError(
                f"class_frequencies has {len(class_frequencies)} entries for {len(self.class_names)} classes: give one "
                "for each class"
            )
        self.class_frequencies = list(class_frequencies)

    def losses(self, features: VisionFeatures, batch: DetectionBatch) -> dict[str, Tensor]:
        """The detector's losses; crowds are not trained on."""
        height, width = batch["image"].shape[-2:]
        return self.detector.losses(features, ImageSizes((height, width), batch["valid_size"]), objects_of(batch))

    def predictions(self, backbone: VisionBackbone, batch: PaddedImages) -> list[Detections]:
        """What is in each image, in the coordinates of the original ones.

        Images are looked at without the padding of their batch, so the result does not depend on what else is in it.
        """
        found: dict[int, Detections] = {}
        for (height, width), rows in rows_of_equal_size(batch["valid_size"]).items():
            images = pad_images(batch["image"][rows, :, :height, :width], self.divisor)
            sizes = ImageSizes((images.shape[-2], images.shape[-1]), batch["valid_size"][rows])
            found |= zip(rows, self.detector.detect(backbone(images), sizes), strict=True)
        scales = batch["original_size"].flip(1) / batch["valid_size"].flip(1)  # (batch, 2) of x and y
        return [
            found[row]._replace(boxes=found[row].boxes * scale.repeat(2).to(found[row].boxes))
            for row, scale in enumerate(scales)
        ]

    def new_metrics(self) -> DetectionMetrics:
        masks = self.detector.predicts_masks
        return DetectionMetrics(self.class_names, masks, self.class_frequencies, self.counted_detections)


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
        detector: Neck and head: FCOS (if not given), RetinaNet, YOLO, FasterRCNN, MaskRCNN, CascadeMaskRCNN.
        counted_detections: How many detections average precision counts, the surest first: COCO's of each class in an
            image (100 if not given), LVIS's in an image (300). The detector has a limit of its own,
            `detections_per_image`.
        optimizer: Optimiser, for example `class_path: torch.optim.AdamW`; AdamW with its defaults if not given. Norms,
            biases, embeddings and state-space parameters never get weight decay.
        schedule: Learning-rate schedule over the whole run: WarmupCosine, WarmupLinear, WarmupSteps or Constant (if not
            given).
        pretrained: Weights to start from: a published checkpoint or one of ours, as a file, a folder or a name on the
            Hugging Face hub (owner/name or owner/name:file). Read once when a run starts, never on resuming.
        layer_decay: Factor on the learning rate from each layer of the backbone to the one before it; one rate if not
            given.
        frozen_stages: Number of the backbone's first stages (the stem is the first) to leave as they are.

    Raises:
        InputError: If the backbone is no vision backbone, the classes' names or frequencies are not one for
            each, or no detection would count.
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
        counted_detections: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        pretrained: str | None = None,
        layer_decay: float | None = None,
        frozen_stages: int = 0,
    ) -> None:
        if not isinstance(backbone, VisionBackbone):
            raise InputError(f"{type(backbone).__name__} is not a vision backbone: detection takes Vim, MambaOut, ...")
        names = [str(number) for number in range(num_classes)] if class_names is None else class_names
        if len(names) != num_classes:
            raise InputError(f"class_names has {len(names)} entries for {num_classes} classes: give one for each class")
        objective = DetectionObjective(backbone, names, detector, class_frequencies, counted_detections)
        super().__init__(backbone, objective, optimizer, schedule, pretrained, layer_decay, frozen_stages)
        self.save_constructor_arguments("detector")

    def training_losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        padded = padded_batch(batch, self.objective.divisor)
        features = self.backbone(padded["image"])
        return self.objective.losses(features, padded) | features.auxiliary_losses

    def predictions(self, batch: PaddedImages) -> list[Detections]:
        return self.objective.predictions(self.backbone, batch)

    def predict_step(self, batch: PaddedImages) -> list[Detections]:
        """What is in each image, in the coordinates of the original ones."""
        return self.predictions(batch)

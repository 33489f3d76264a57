"""Object detection: boxes, and with some detectors masks, of the objects in an image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from mambarium.backbones.contract import Backbone, VisionBackbone, VisionFeatures
from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.tasks.batches import DetectionBatch, PaddedImages, rows_of_equal_size
from mambarium.tasks.dense.maps import pad_images
from mambarium.tasks.detection.average_precision import OFFICIAL_LIMITS, DetectionMetrics, Frequency
from mambarium.tasks.detection.detection_predictions import DetectionFiles, detections_beside_truth
from mambarium.tasks.detection.detector import Detections, DetectorFactory, ImageSizes, Objects
from mambarium.tasks.detection.fcos import FCOS
from mambarium.tasks.objective import PrimaryMetric, VisionObjective
from mambarium.tasks.task import TrainingOptions
from mambarium.tasks.vision_task import VisionTask, named_classes, vision_backbone


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
        metrics: As `Objective` takes them, in the form of torchmetrics' `MeanAveragePrecision`, of boxes alone.
        primary_metric: As `Objective` takes it.

    Raises:
        InputError: If there is not one frequency for each class, or no detection would count.
    """

    usual_metric = PrimaryMetric("AP", "max")
    kind = "detection"
    writer = DetectionFiles

    def __init__(
        self,
        backbone: VisionBackbone,
        class_names: Sequence[str],
        detector: DetectorFactory | None = None,
        class_frequencies: Sequence[Frequency] | None = None,
        counted_detections: int | None = None,
        metrics: Mapping[str, Metric] | None = None,
        primary_metric: str | None = None,
    ) -> None:
        super().__init__(metrics, primary_metric)
        if counted_detections is not None and counted_detections < 1:
            raise InputError(f"counted_detections is {counted_detections}; give 1 or more")
        self.counted_detections = counted_detections
        self.detector = (detector or FCOS)(backbone.feature_info, len(class_names))
        self.divisor = math.lcm(backbone.size_divisibility, self.detector.divisor)
        self.class_names = list(class_names)
        self.class_frequencies: Sequence[Frequency] | None = None
        self.take_frequencies(class_frequencies)

    def take_frequencies(self, class_frequencies: Sequence[Frequency] | None) -> None:
        """Evaluate as LVIS does from now on, with the data's frequencies, unless it has some or is given none."""
        if class_frequencies is None or self.class_frequencies is not None:
            return
        if len(class_frequencies) != len(self.class_names):
            raise InputError(
                f"class_frequencies has {len(class_frequencies)} entries for {len(self.class_names)} classes; give one "
                "for each class"
            )
        self.class_frequencies = list(class_frequencies)

    def losses(self, features: VisionFeatures, batch: DetectionBatch) -> dict[str, Tensor]:
        """Compute the detector's losses; crowds are not trained on."""
        height, width = batch["image"].shape[-2:]
        return self.detector.losses(features, ImageSizes((height, width), batch["valid_size"]), objects_of(batch))

    def predictions(self, backbone: VisionBackbone, batch: PaddedImages) -> list[Detections]:
        """Find what is in each image, in the coordinates of the original ones.

        Images are looked at without the padding of their batch, so the result does not depend on what else is in it.
        """
        found: dict[int, Detections] = {}
        for (height, width), rows in rows_of_equal_size(batch["valid_size"]).items():
            images = pad_images(batch["image"][rows, :, :height, :width], self.divisor)
            sizes = ImageSizes((images.shape[-2], images.shape[-1]), batch["valid_size"][rows])
            found |= zip(rows, self.detector.detect(backbone(images), sizes), strict=True)
        return [
            found[row]._replace(boxes=found[row].boxes * scale.to(found[row].boxes))
            for row, scale in enumerate(original_scales(batch))
        ]

    def own_metrics(self) -> DetectionMetrics:
        masks = self.detector.predicts_masks
        return DetectionMetrics(self.class_names, masks, self.class_frequencies, self.counted_detections)

    def metric_inputs(self, predictions: list[Detections], batch: DetectionBatch) -> tuple[Any, Any]:
        found = [{"boxes": found.boxes, "scores": found.scores, "labels": found.labels} for found in predictions]
        scales = original_scales(batch)
        truth = [
            {"boxes": boxes * scale, "labels": labels, "iscrowd": crowd.int(), "area": area}
            for boxes, scale, labels, crowd, area in zip(
                batch["boxes"], scales, batch["labels"], batch["crowd"], batch["area"], strict=True
            )
        ]
        return found, truth

    def draw(self, truth: Tensor, sample: Any, prediction: Detections, class_names: Sequence[str]) -> Tensor:
        image = sample["image"].as_subclass(Tensor)
        return detections_beside_truth(truth, image, sample["original_size"], prediction, class_names)

    def limits(self, most_objects: tuple[int, int]) -> list[str]:
        kept, lvis = self.detector.detections_per_image, self.class_frequencies is not None
        counted = self.counted_detections or OFFICIAL_LIMITS[lvis]
        of_each, of_one = ("", "") if lvis else (" of each class", " of one class")
        in_all = "no limit of" if kept is None else f"at most {kept:,}"
        lines = [f"limits   {in_all} detections per image; average precision counts {counted:,}{of_each}"]
        most, most_of_one = most_objects
        most_counted = most if lvis else most_of_one
        if kept is not None and kept < most:
            lines.append(
                f"note     an image holds {most:,} objects; raise detections_per_image of the detector to that or more"
            )
        elif lvis and kept is not None and kept < counted:
            lines.append(
                f"note     LVIS counts {counted:,} detections; raise detections_per_image of the detector to that"
            )
        if counted < most_counted:
            lines.append(
                f"note     an image holds {most_counted:,} objects{of_one}; raise counted_detections to that or more"
            )
        return lines


def original_scales(batch: PaddedImages) -> Tensor:
    """Return (batch, 4) factors from boxes in the valid images to boxes in the original ones."""
    return (batch["original_size"].flip(1) / batch["valid_size"].flip(1)).repeat(1, 2)


def objects_of(batch: DetectionBatch) -> list[Objects]:
    """Return the objects of each image that a detector is trained on: all but crowds."""
    objects = []
    for index, crowd in enumerate(batch["crowd"]):
        single = ~crowd.bool()
        masks = None if batch["masks"] is None else batch["masks"][index][single]
        objects.append(Objects(batch["boxes"][index][single].float(), batch["labels"][index][single], masks))
    return objects


class ObjectDetection(VisionTask):
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
        metrics: Metrics of torchmetrics by name, beside our own, in the form of its `MeanAveragePrecision` without
            masks: boxes x1, y1, x2, y2 in the original image, scores, labels.
        primary_metric: Name of the metric that ranks checkpoints and runs; AP if not given.
        options: The other arguments of `Task`.

    Raises:
        InputError: If the backbone is no vision backbone, the classes' names or frequencies are not one for
            each, or no detection would count.
    """

    objective: DetectionObjective

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        class_names: list[str] | None = None,
        class_frequencies: list[Frequency] | None = None,
        detector: DetectorFactory | None = None,
        counted_detections: int | None = None,
        metrics: dict[str, Metric] | None = None,
        primary_metric: str | None = None,
        **options: Inherited[TrainingOptions],
    ) -> None:
        objective = DetectionObjective(
            vision_backbone(backbone),
            named_classes(num_classes, class_names),
            detector,
            class_frequencies,
            counted_detections,
            metrics,
            primary_metric,
        )
        super().__init__(backbone, objective, **options)
        self.save_constructor_arguments("detector")

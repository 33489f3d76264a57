"""COCO's and LVIS's average precision of boxes and instance masks, exact over any number of processes."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from mambarium.errors import InputError
from mambarium.tasks.batches import DetectionBatch, RunLengths
from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.detection.mask_encoding import encode_mask, paste_mask, resize_mask
from mambarium.tasks.objective import TaskMetrics, distinct_names

Frequency = Literal["r", "c", "f"]
"""How often LVIS's training data has a class: rarely, commonly or frequently."""

SIZES = ("small", "medium", "large")
"""COCO's classes of objects: areas of less than 32x32 pixels, less than 96x96, and more."""


OFFICIAL_LIMITS = {False: 100, True: 300}
"""Detections that COCO's evaluation counts of each class in an image and, with frequencies, LVIS's in an image."""


class ObjectRecord(NamedTuple):
    """Objects or detections of an image in its original coordinates.

    Attributes:
        boxes: (objects, 4) left, top, width, height.
        labels: (objects,) class numbers.
        values: (objects, 2) area and whether it is a crowd, or (detections, 1) score.
        masks: Run lengths of each, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    values: np.ndarray
    masks: list[RunLengths] | None


class ImageRecord(NamedTuple):
    """All that the evaluation needs of an image: its size, its objects, what was found, and LVIS's lists of classes."""

    size: tuple[int, int]
    truth: ObjectRecord
    found: ObjectRecord
    negative_classes: list[int]
    partial_classes: list[int]


class DetectionMetrics(TaskMetrics):
    """Average precision by faster-coco-eval, each image counted once however often and wherever it was seen.

    `AP` is the mean over the overlaps 0.50, 0.55, ..., 0.95 and over the classes, `AP50` and `AP75` are those of one
    overlap, `AP_small`, `AP_medium` and `AP_large` those of objects of one size, `AP_class/<name>` that of a class,
    `AP_classes` the number of classes that AP is the mean of. With LVIS's frequencies the evaluation is LVIS's (classes
    known to be there or not), with `APr`, `APc` and `APf`. Figures of masks begin with `mask_`. Figures of what has no
    objects are NaN (the official programs say -1).

    Args:
        class_names: Name of each class.
        masks: Whether masks are evaluated, beside boxes.
        frequencies: LVIS's frequency of each class; None for COCO's evaluation.
        counted_detections: How many detections count, the surest first: in COCO's evaluation of each class in an image,
            in LVIS's in an image; None: their 100 and 300.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        masks: bool = False,
        frequencies: Sequence[Frequency] | None = None,
        counted_detections: int | None = None,
    ) -> None:
        super().__init__()
        self.class_names = distinct_names(class_names)
        self.counted_detections = counted_detections or OFFICIAL_LIMITS[frequencies is not None]
        self.masks = masks
        self.frequencies = None if frequencies is None else list(frequencies)
        self.records: dict[int, ImageRecord] = {}

    @property
    def names(self) -> tuple[str, ...]:
        rarities = () if self.frequencies is None else ("APr", "APc", "APf")
        of_sizes = (f"AP_{size}" for size in SIZES)
        of_classes = (f"AP_class/{name}" for name in self.class_names)
        of_boxes = ("AP", "AP_classes", "AP50", "AP75", *of_sizes, *rarities, *of_classes)
        return (*of_boxes, *(f"mask_{name}" for name in of_boxes)) if self.masks else of_boxes

    def reset(self) -> None:
        super().reset()
        self.records = {}

    def update(self, predictions: list[Detections], batch: DetectionBatch) -> None:
        """Count detections in the coordinates of the original images.

        Raises:
            InputError: If the data is of the LVIS kind but there are no frequencies, or masks are evaluated but the
                data has none.
        """
        if "negative_classes" in batch and self.frequencies is None:
            raise InputError(
                "the data is of the LVIS kind (its images have neg_category_ids); give each category of the training "
                "annotations a frequency (r, c or f), or class_frequencies of DetectionObjective"
            )
        for index, detections in enumerate(predictions):
            image_id = int(batch["image_id"][index])
            self.records[image_id] = ImageRecord(
                size=_pair(batch["original_size"][index]),
                truth=self._truth(batch, index),
                found=self._found(detections, _pair(batch["original_size"][index])),
                negative_classes=batch["negative_classes"][index] if "negative_classes" in batch else [],
                partial_classes=batch["partial_classes"][index] if "partial_classes" in batch else [],
            )

    def _truth(self, batch: DetectionBatch, index: int) -> ObjectRecord:
        original, valid = _pair(batch["original_size"][index]), _pair(batch["valid_size"][index])
        scale = torch.tensor([original[1] / valid[1], original[0] / valid[0]] * 2, dtype=torch.float64)
        area_and_crowd = torch.stack([batch["area"][index].double(), batch["crowd"][index].double()], dim=1)
        return ObjectRecord(
            left_top_width_height(batch["boxes"][index].double().cpu() * scale),
            batch["labels"][index].cpu().numpy(),
            area_and_crowd.cpu().numpy(),
            self._true_masks(batch, index, original, valid) if self.masks else None,
        )

    def _true_masks(
        self, batch: DetectionBatch, index: int, original: tuple[int, int], valid: tuple[int, int]
    ) -> list[RunLengths]:
        if "original_masks" in batch:
            return batch["original_masks"][index]
        if batch["masks"] is None:
            raise InputError("the data has no instance masks; choose a detector without them, such as FasterRCNN")
        masks = batch["masks"][index][:, : valid[0], : valid[1]]
        return [encode_mask(resize_mask(mask, original)) for mask in masks]

    def _found(self, detections: Detections, size: tuple[int, int]) -> ObjectRecord:
        masks = None
        if self.masks:
            assert detections.masks is not None
            pairs = zip(detections.masks, detections.boxes, strict=True)
            masks = [encode_mask(paste_mask(mask, box, size)) for mask, box in pairs]
        return ObjectRecord(
            left_top_width_height(detections.boxes.double().cpu()),
            detections.labels.cpu().numpy(),
            detections.scores.double().cpu().numpy()[:, None],
            masks,
        )

    def compute(self) -> dict[str, Tensor]:
        """All figures.

        Raises:
            InputError: If no image has an object.
        """
        values = on_first_process(self.records, self._values)
        if math.isnan(values["AP"]):
            raise InputError("none of the evaluated images has an object: average precision is not defined")
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}

    def _values(self, records: dict[int, ImageRecord]) -> dict[str, float]:
        limit = self.counted_detections
        values = average_precisions(records, self.class_names, "bbox", limit, self.frequencies)
        if self.masks:
            of_masks = average_precisions(records, self.class_names, "segm", limit, self.frequencies)
            values |= {f"mask_{name}": value for name, value in of_masks.items()}
        return values


def on_first_process(records: dict[int, ImageRecord], evaluate: Any) -> dict[str, float]:
    """Evaluate the records of all processes on the first one and tell the others the result."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return evaluate(records)
    is_first = distributed.get_rank() == 0
    gathered: list[Any] | None = [None] * distributed.get_world_size() if is_first else None
    distributed.gather_object(records, gathered)
    answer: list[Any] = [None]
    if gathered is not None:
        merged: dict[int, ImageRecord] = {}
        for part in gathered:
            merged |= part
        answer = [evaluate(merged)]
    distributed.broadcast_object_list(answer)
    return answer[0]


def average_precisions(
    records: dict[int, ImageRecord],
    class_names: Sequence[str],
    kind: Literal["bbox", "segm"],
    limit: int,
    frequencies: Sequence[Frequency] | None = None,
) -> dict[str, float]:
    """Average precision of boxes or masks of images by number, as `DetectionMetrics` names the figures and limits."""
    from faster_coco_eval import COCO, COCOeval_faster

    order = sorted(records)
    categories: list[dict[str, Any]] = [{"id": index, "name": name} for index, name in enumerate(class_names)]
    for category, frequency in zip(categories, frequencies or (), strict=frequencies is not None):
        category["frequency"] = frequency
    truth = COCO(
        {
            "images": [
                {
                    "id": image_id,
                    "height": records[image_id].size[0],
                    "width": records[image_id].size[1],
                    "neg_category_ids": records[image_id].negative_classes,
                    "not_exhaustive_category_ids": records[image_id].partial_classes,
                }
                for image_id in order
            ],
            "annotations": _annotations(records, order, kind),
            "categories": categories,
        }
    )
    results = _results(records, order, kind, None if frequencies is None else limit)
    evaluation = COCOeval_faster(truth, truth.loadRes(results), kind, lvis_style=frequencies is not None)
    evaluation.params.maxDets = [limit]
    evaluation.evaluate()
    evaluation.accumulate()
    # (overlaps, recalls, classes, sizes, limits), -1 where there is nothing to be found
    precision: np.ndarray = evaluation.eval["precision"][..., -1]
    every = precision[..., 0]  # all sizes
    parts: dict[str, np.ndarray] = {"AP": every, "AP50": every[0], "AP75": every[5]}
    parts |= {f"AP_{size}": precision[..., index + 1] for index, size in enumerate(SIZES)}
    if frequencies is not None:
        parts |= {f"AP{letter}": every[:, :, np.array(frequencies) == letter] for letter in ("r", "c", "f")}
    parts |= {f"AP_class/{name}": every[:, :, index] for index, name in enumerate(class_names)}
    values = {name: float(part[part > -1].mean()) if (part > -1).any() else math.nan for name, part in parts.items()}
    return {**values, "AP_classes": float((every > -1).any(axis=(0, 1)).sum())}


def _annotations(records: dict[int, ImageRecord], order: list[int], kind: str) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id in order:
        truth = records[image_id].truth
        for index, (area, crowd) in enumerate(truth.values.tolist()):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(truth.labels[index]),
                "bbox": truth.boxes[index].tolist(),
                "area": area,
                "iscrowd": int(crowd),
            }
            if kind == "segm":
                assert truth.masks is not None
                annotation["segmentation"] = truth.masks[index]
            annotations.append(annotation)
    return annotations


def _results(records: dict[int, ImageRecord], order: list[int], kind: str, limit: int | None) -> list[dict[str, Any]]:
    """Return the detections of all images, of each the surest up to a limit."""
    results: list[dict[str, Any]] = []
    for image_id in order:
        found = records[image_id].found
        for index in np.argsort(-found.values[:, 0], kind="stable").tolist()[:limit]:
            score = float(found.values[index, 0])
            result = {"image_id": image_id, "category_id": int(found.labels[index]), "score": score}
            if kind == "segm":
                # Without a box the evaluation takes area and box from the mask, as the official one does.
                assert found.masks is not None
                result["segmentation"] = found.masks[index]
            else:
                result["bbox"] = found.boxes[index].tolist()
            results.append(result)
    return results


def left_top_width_height(boxes: Tensor) -> np.ndarray:
    """Corners (boxes, 4) as left, top, width, height."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).numpy()


def _pair(size: Tensor) -> tuple[int, int]:
    height, width = size.tolist()
    return int(height), int(width)

"""What a user gets of found objects: results in COCO's format, overlays, pictures beside the truth."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.detection.mask_encoding import encode_mask, paste_mask, paste_masks
from mambarium.tasks.drawing import (
    MASK_OPACITY,
    WHITE,
    CaptionLine,
    arrange,
    class_color,
    enlarged,
    with_caption,
    write_png,
)
from mambarium.tasks.predictions import PredictionWriter

SHOWN_SCORE = 0.4
"""Less sure detections are not drawn."""

SIDE_PER_LINE_WIDTH = 400
"""Pixels of an image's longer side for each pixel of the width of lines."""


class DetectionFiles(PredictionWriter):
    """Writes results in COCO's format, what their numbers mean, and `overlays/<image>.png` to look at.

    `detections.json` is a list that `COCO.loadRes` reads, `images.json` lists images and categories as annotation files
    do.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        files = self.images.files
        self.pictures = self.images.pictures()
        self.category_ids = list(self.images.category_ids or range(len(self.images.class_names)))
        self.image_ids = dict(zip(files, self.images.image_ids or range(1, len(files) + 1), strict=True))
        self.listed: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []

    def add(self, predictions: Sequence[Detections], batch: Any) -> None:
        """Keep what was found in each image, in the original image's coordinates, and write an overlay."""
        sizes = batch["original_size"].tolist()
        for path, found, (height, width) in zip(batch["path"], predictions, sizes, strict=True):
            file = Path(path)
            image = {"id": self.image_ids[file], "height": height, "width": width}
            self.listed.append(image | {"file_name": str(file.relative_to(self.images.root))})
            self.results += self._results(image, found)
            overlay = draw_detections(self.images.read(file), found, self.images.class_names)
            write_png(overlay, self.output / "overlays" / self.pictures[file])

    def _results(self, image: dict[str, int], found: Detections) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        for index, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
            result = {
                "image_id": image["id"],
                "category_id": self.category_ids[int(found.labels[index])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(found.scores[index]),
            }
            if found.masks is not None:
                mask = paste_mask(found.masks[index], found.boxes[index], (image["height"], image["width"]))
                result |= {"segmentation": encode_mask(mask)}
            results.append(result)
        return results

    def finish(self) -> str:
        names = zip(self.category_ids, self.images.class_names, strict=True)
        numbers = {"images": self.listed, "categories": [{"id": number, "name": name} for number, name in names]}
        for name, content in (("detections.json", self.results), ("images.json", numbers)):
            (self.output / name).write_text(json.dumps(content), encoding="utf-8")
        source = self.images.numbered_by or "images.json"
        return f"detections.json (with the image ids of {source}) and overlays of {len(self.listed):,} images"


def draw_objects(
    image: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor, masks: Tensor | None, class_names: Sequence[str]
) -> Tensor:
    """Draw an image with boxes, masks and class names on it, uint8 (3, height, width).

    The image is uint8 or floating point in 0 to 1; boxes (objects, 4) are corners x1, y1, x2, y2, masks boolean
    (objects, height, width), if there are any.
    """
    drawn = enlarged(image)
    scale = drawn.shape[1] / image.shape[1], drawn.shape[2] / image.shape[2]
    colors = [class_color(int(label)) for label in labels]
    if masks is not None and len(masks):
        large = F.resize(masks.to(torch.uint8), list(drawn.shape[1:]), F.InterpolationMode.NEAREST).bool()
        drawn = draw_segmentation_masks(drawn, large, alpha=MASK_OPACITY, colors=colors)
    if len(boxes):
        names = [
            class_names[int(label)] + (" (crowd)" if is_crowd else "")
            for label, is_crowd in zip(labels, crowd.tolist(), strict=True)
        ]
        large_boxes = boxes * boxes.new_tensor([scale[1], scale[0], scale[1], scale[0]])
        drawn = draw_bounding_boxes(drawn, large_boxes, names, colors=colors, width=1, fill_labels=True)
    return with_caption(drawn, [CaptionLine(f"{len(labels)} object{'' if len(labels) == 1 else 's'}", WHITE)])


def detections_beside_truth(
    truth: Tensor, image: Tensor, original_size: tuple[int, int], found: Detections, class_names: Sequence[str]
) -> Tensor:
    """Draw found objects, in the original image's coordinates, beside a picture of the true ones, uint8.

    The image is uint8 or floating point in 0 to 1 (3, height, width), and of `original_size` when it was read.
    """
    image = enlarged(image)
    height, width = image.shape[-2:]
    scale = found.boxes.new_tensor([width / original_size[1], height / original_size[0]]).repeat(2)
    predicted = draw_detections(image, found._replace(boxes=found.boxes * scale), class_names)
    return arrange([truth, predicted], columns=2)


def draw_detections(image: Tensor, found: Detections, class_names: Sequence[str]) -> Tensor:
    """Draw the surer detections, with their scores, on an image uint8 (3, height, width) in its coordinates."""
    shown = found.scores.cpu() >= SHOWN_SCORE
    boxes, labels = found.boxes.float().cpu()[shown], found.labels.cpu()[shown]
    size = (image.shape[-2], image.shape[-1])
    if not len(boxes):
        return image
    colors = [class_color(int(label)) for label in labels]
    if found.masks is not None:
        masks = paste_masks(found.masks.cpu()[shown], boxes, size)
        image = draw_segmentation_masks(image, masks, alpha=MASK_OPACITY, colors=colors)
    scores = found.scores.cpu()[shown].tolist()
    names = [f"{class_names[int(label)]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    width = max(1, max(size) // SIDE_PER_LINE_WIDTH)
    return draw_bounding_boxes(image, boxes, names, colors=colors, width=width, fill_labels=True)

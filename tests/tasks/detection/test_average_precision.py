"""Average precision: the official code's figures, whatever the number of processes."""

import contextlib
import io
import math
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as official_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, distributed

from mambarium.errors import InputError
from mambarium.tasks.batches import DetectionBatch
from mambarium.tasks.detection.average_precision import DetectionMetrics
from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.detection.mask_encoding import paste_masks

CLASSES = ["cat", "dog", "bird"]
SIZE = (140, 160)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 60
    extent = 4 + torch.rand(count, 2, generator=generator) ** 2 * 76
    return torch.cat([corner, corner + extent], dim=1)


def full_masks(boxes: Tensor) -> Tensor:
    """A probability of 0.9 everywhere but in the lower right quarter of each box."""
    masks = torch.full((len(boxes), 8, 8), 0.9)
    masks[:, 4:, 4:] = 0.1
    return masks


def images(count: int, seed: int) -> list[tuple[DetectionBatch, Detections]]:
    """Images with objects, some of them crowds, and with shaken, missed and invented detections."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for image_id in range(count):
        boxes = random_boxes(int(torch.randint(0, 7, (), generator=generator)), generator)
        labels = torch.randint(0, 3, (len(boxes),), generator=generator)
        masks = paste_masks(full_masks(boxes), boxes, SIZE)
        batch = DetectionBatch(
            image=torch.zeros(1, 3, *SIZE),
            valid_size=torch.tensor([SIZE]),
            original_size=torch.tensor([SIZE]),
            image_id=torch.tensor([3 * image_id + 5]),
            boxes=[boxes],
            labels=[labels],
            crowd=[torch.rand(len(boxes), generator=generator) < 0.15],
            area=[masks.flatten(1).sum(dim=1).float()],
            masks=[masks],
        )
        shaken = boxes + torch.randn(boxes.shape, generator=generator) * 2
        found = torch.cat([shaken, shaken[::2] + 1, random_boxes(3, generator)])
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 1)
        found_labels = torch.cat([labels, labels[::2], torch.tensor([0, 1, 2])])
        scores = torch.rand(len(found), generator=generator)
        made.append((batch, Detections(found, scores, found_labels, full_masks(found))))
    return made


def evaluated(pairs: list[tuple[DetectionBatch, Detections]], **options: Any) -> dict[str, float]:
    metrics = DetectionMetrics(CLASSES, **options)
    for batch, found in pairs:
        metrics.update([found], batch)
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert set(values) == set(metrics.names)
    return values


def official(pairs: list[tuple[DetectionBatch, Detections]], kind: str) -> dict[str, float]:
    """The same by pycocotools."""
    truth: dict = {"images": [], "annotations": [], "categories": [{"id": n, "name": c} for n, c in enumerate(CLASSES)]}
    results = []
    for batch, found in pairs:
        image_id = int(batch["image_id"])
        truth["images"].append({"id": image_id, "height": SIZE[0], "width": SIZE[1]})
        for index, (x1, y1, x2, y2) in enumerate(batch["boxes"][0].double().tolist()):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(batch["labels"][0][index]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(batch["area"][0][index]),
                    "iscrowd": int(batch["crowd"][0][index]),
                    "segmentation": encoded(batch["masks"][0][index]),  # type: ignore[index]  # all of them have masks
                }
            )
        assert found.masks is not None
        for index, (x1, y1, x2, y2) in enumerate(found.boxes.double().tolist()):
            result = {
                "image_id": image_id,
                "category_id": int(found.labels[index]),
                "score": float(found.scores[index]),
            }
            if kind == "segm":
                mask = paste_masks(found.masks[index : index + 1], found.boxes[index : index + 1], SIZE)[0]
                results.append(result | {"segmentation": encoded(mask)})
            else:
                results.append(result | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    values = dict(zip(names, evaluation.stats[:6].tolist(), strict=True))
    for index, name in enumerate(CLASSES):
        precision = evaluation.eval["precision"][:, :, index, 0, -1]
        values[f"AP_class/{name}"] = float(precision[precision > -1].mean())
    values["AP_classes"] = len(CLASSES)
    return {name: value if value > -1 else math.nan for name, value in values.items()}


def encoded(mask: Tensor) -> dict:
    return official_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[DetectionBatch, Detections]]:
    return images(13, seed=1)


@pytest.fixture(scope="module")
def expected(pairs: list[tuple[DetectionBatch, Detections]]) -> dict[str, float]:
    of_masks = {f"mask_{name}": value for name, value in official(pairs, "segm").items()}
    return official(pairs, "bbox") | of_masks


def test_equals_the_official_code(pairs: list[tuple[DetectionBatch, Detections]], expected: dict[str, float]) -> None:
    assert any(batch["crowd"][0].any() for batch, _ in pairs)
    assert 0.1 < expected["AP"] < 0.9 and 0.1 < expected["mask_AP"] < 0.9
    assert evaluated(pairs, masks=True) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_two_processes_with_unequal_numbers_of_images(
    pairs: list[tuple[DetectionBatch, Detections]], expected: dict[str, float], tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    # The first process has ten images, the other four, one of them seen by both.
    shares = [pairs[:10], pairs[9:]]
    processes = []
    for rank, share in enumerate(shares):
        process = os.fork()
        if not process:
            try:
                distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
                torch.save(evaluated(share, masks=True), tmp_path / f"{rank}.pt")
            finally:
                os._exit(0)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_the_truth_as_prediction_is_perfect(pairs: list[tuple[DetectionBatch, Detections]]) -> None:
    perfect = []
    for batch, _ in pairs:
        single = ~batch["crowd"][0]
        boxes, labels = batch["boxes"][0][single], batch["labels"][0][single]
        perfect.append((batch, Detections(boxes, torch.ones(len(boxes)), labels, full_masks(boxes))))
    values = evaluated(perfect, masks=True)
    counts = {name: value for name, value in values.items() if name.endswith("AP_classes")}
    assert counts == {"AP_classes": 3, "mask_AP_classes": 3}
    figures = {name: value for name, value in values.items() if name not in counts and not math.isnan(value)}
    assert {"AP", "mask_AP", "AP_small", "AP_medium"} <= set(figures)
    assert set(figures.values()) == {1.0}


def test_detections_in_a_crowd_are_no_mistakes() -> None:
    (batch, _), *_ = [pair for pair in images(13, seed=1) if len(pair[0]["boxes"][0]) > 1]
    batch["crowd"] = [torch.zeros_like(batch["crowd"][0])]
    batch["crowd"][0][0] = True
    batch["labels"] = [torch.zeros_like(batch["labels"][0])]
    boxes = torch.cat([batch["boxes"][0][:1]] * 3 + [batch["boxes"][0][1:]])
    found = Detections(boxes, torch.linspace(1, 0.5, len(boxes)), torch.zeros(len(boxes), dtype=torch.int64))
    assert evaluated([(batch, found)])["AP"] == 1.0


def test_truth_is_brought_to_the_original_size() -> None:
    """The batch holds the image at half its height and a third of its width; detections come at full size."""
    pairs = images(6, seed=2)
    expected = evaluated(pairs)
    for batch, _ in pairs:
        batch["valid_size"] = torch.tensor([[SIZE[0] // 2, SIZE[1] // 4]])
        batch["boxes"] = [batch["boxes"][0] / torch.tensor([4.0, 2.0, 4.0, 2.0])]
    assert evaluated(pairs) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_lvis_counts_only_classes_that_were_checked() -> None:
    pairs = images(1, seed=4)
    batch, _ = pairs[0]
    boxes = random_boxes(2, torch.Generator().manual_seed(0))
    batch.update(boxes=[boxes], labels=[torch.tensor([0, 0])], crowd=[torch.zeros(2)], area=[torch.full((2,), 2000.0)])
    wrong = torch.tensor([[100.0, 100.0, 120.0, 120.0]])
    found = Detections(torch.cat([wrong, wrong, boxes]), torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 0, 0, 0]))
    batch["negative_classes"], batch["partial_classes"] = [[]], [[]]
    values = evaluated([(batch, found)], frequencies=["r", "c", "f"])
    assert values["AP"] == values["APr"] == values["AP_class/cat"] < 0.7
    assert math.isnan(values["APc"]) and values["AP_classes"] == 1
    batch["partial_classes"] = [[0]]
    assert evaluated([(batch, found)], frequencies=["r", "c", "f"])["AP"] == 1.0


def test_classes_without_objects_are_marked_and_left_out_of_the_mean() -> None:
    batch, _ = images(1, seed=4)[0]
    boxes = random_boxes(1, torch.Generator().manual_seed(0))
    batch.update(boxes=[boxes], labels=[torch.tensor([1])], crowd=[torch.zeros(1)], area=[torch.full((1,), 2000.0)])
    values = evaluated([(batch, Detections(boxes, torch.ones(1), torch.tensor([1])))])
    assert values["AP"] == values["AP_class/dog"] == 1.0 and values["AP_classes"] == 1
    assert math.isnan(values["AP_class/cat"]) and math.isnan(values["AP_class/bird"]) and math.isnan(values["AP_small"])


def test_two_classes_of_one_name_stay_apart() -> None:
    batch, _ = images(1, seed=4)[0]
    boxes = random_boxes(2, torch.Generator().manual_seed(0))
    batch.update(boxes=[boxes], labels=[torch.tensor([0, 2])], crowd=[torch.zeros(2)], area=[torch.full((2,), 2000.0)])
    metrics = DetectionMetrics(["crane", "dog", "crane"])
    metrics.update([Detections(boxes[:1], torch.ones(1), torch.tensor([0]))], batch)
    values = metrics.compute()
    assert values["AP_class/crane (class 0)"] == 1.0 and values["AP_class/crane (class 2)"] == 0.0
    assert values["AP"] == 0.5 and "AP_class/dog" in values and "AP_class/crane" not in values
    assert set(values) == set(metrics.names)


@pytest.mark.parametrize("frequencies", [None, ["r", "c", "f"]])
def test_the_limit_of_detections_that_count_can_be_set(frequencies: list[str] | None) -> None:
    """Two objects of each of two classes: COCO's limit is of each class, LVIS's of an image."""
    batch, _ = images(1, seed=4)[0]
    boxes = torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20], [90, 0, 110, 20]])
    labels = torch.tensor([0, 0, 1, 1])
    batch.update(boxes=[boxes], labels=[labels], crowd=[torch.zeros(4)], area=[torch.full((4,), 400.0)])
    if frequencies:
        batch["negative_classes"], batch["partial_classes"] = [[]], [[]]
    found = Detections(boxes, torch.linspace(0.6, 0.9, 4), labels)
    options = {"frequencies": frequencies}
    assert evaluated([(batch, found)], **options)["AP"] == 1
    values = evaluated([(batch, found)], **options, counted_detections=2)
    assert values["AP"] == (0.5 if frequencies else 1.0)
    assert evaluated([(batch, found)], **options, counted_detections=1)["AP_class/dog"] == pytest.approx(0.504950, 1e-4)


def test_data_of_the_lvis_kind_is_not_evaluated_as_coco() -> None:
    batch, found = images(1, seed=4)[0]
    batch["negative_classes"], batch["partial_classes"] = [[]], [[]]
    with pytest.raises(InputError, match="class_frequencies of DetectionObjective"):
        DetectionMetrics(CLASSES).update([found], batch)


def test_images_without_objects_have_no_average_precision() -> None:
    empty = [pair for pair in images(13, seed=1) if not len(pair[0]["boxes"][0])]
    with pytest.raises(InputError, match="none of the evaluated images has an object"):
        evaluated(empty)


def test_reset_forgets_everything(pairs: list[tuple[DetectionBatch, Detections]]) -> None:
    metrics = DetectionMetrics(CLASSES)
    metrics.update([pairs[0][1]], pairs[0][0])
    metrics.reset()
    for batch, found in pairs[3:6]:
        metrics.update([found], batch)
    again = {name: value.item() for name, value in metrics.compute().items()}
    assert again == pytest.approx(evaluated(pairs[3:6]), abs=0, nan_ok=True)

"""Metrics of torchmetrics beside a task's own, and which one ranks runs."""

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCohenKappa, MulticlassF1Score
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.segmentation import MeanIoU

from mambarium.backbones import Mamba, MambaOut
from mambarium.errors import InputError
from mambarium.tasks import ImageClassification, LanguageModeling, ObjectDetection, SemanticSegmentation
from mambarium.tasks.batches import IGNORED_CLASS, IGNORED_TARGET, DetectionBatch, SegmentationBatch
from mambarium.tasks.detection.detector import Detections
from mambarium.tasks.objective import PrimaryMetric


def small_backbone() -> MambaOut:
    return MambaOut(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16))


def computed(task: nn.Module, predictions: object, batch: object) -> dict[str, float]:
    metrics = task.objective.new_metrics()
    metrics.update(predictions, batch)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_classes_are_measured_by_any_metric() -> None:
    chosen = {"kappa": MulticlassCohenKappa(4), "f1": MulticlassF1Score(4, average=None)}
    task = ImageClassification(small_backbone(), 4, metrics=chosen, primary_metric="kappa")
    assert task.primary_metric == PrimaryMetric("kappa", "max")
    logits, labels = torch.randn(40, 4), torch.randint(4, (40,))
    found = computed(task, logits, {"label": labels})
    expected = MulticlassF1Score(4, average=None)(logits, labels)
    assert found["kappa"] == pytest.approx(float(MulticlassCohenKappa(4)(logits, labels)))
    assert [found[f"f1/{index}"] for index in range(4)] == pytest.approx(expected.tolist())
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_pixels_that_do_not_count_reach_no_metric() -> None:
    chosen = {"accuracy_by_class": MulticlassAccuracy(3, average="macro")}
    task = SemanticSegmentation(small_backbone(), 3, metrics=chosen)
    truth = torch.randint(3, (5, 7), dtype=torch.uint8)
    truth[0] = IGNORED_CLASS
    predicted = torch.randint(3, (5, 7), dtype=torch.uint8)
    batch = SegmentationBatch(original_mask=[truth])  # type: ignore[typeddict-item]  # metrics look at nothing else
    counted = truth != IGNORED_CLASS
    expected = MulticlassAccuracy(3, average="macro")(predicted[counted].long(), truth[counted].long())
    assert computed(task, [predicted], batch)["accuracy_by_class"] == pytest.approx(float(expected))


def test_boxes_are_measured_in_the_original_image() -> None:
    task = ObjectDetection(small_backbone(), 2, metrics={"map": MeanAveragePrecision(backend="faster_coco_eval")})
    boxes: Tensor = torch.tensor([[1.0, 1, 9, 9], [2, 2, 6, 6]])
    batch = DetectionBatch(
        image=torch.zeros(1, 3, 16, 16),
        valid_size=torch.tensor([[16, 16]]),
        original_size=torch.tensor([[32, 48]]),
        image_id=torch.tensor([0]),
        boxes=[boxes],
        labels=[torch.tensor([0, 1])],
        crowd=[torch.tensor([False, False])],
        area=[torch.tensor([64.0, 16.0])],
        masks=None,
    )
    found = Detections(boxes * torch.tensor([3.0, 2, 3, 2]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    values = computed(task, [found], batch)
    assert values["map/map"] == pytest.approx(values["AP"]) == pytest.approx(1.0)


def test_tokens_without_a_target_reach_no_metric() -> None:
    task = LanguageModeling(
        Mamba(width=8, depth=1), 11, metrics={"top3": MulticlassAccuracy(11, top_k=3, average="micro")}
    )
    logits, targets = torch.randn(2, 6, 11), torch.randint(11, (2, 6))
    targets[0, :3] = IGNORED_TARGET
    batch = {"tokens": targets, "targets": targets, "num_bytes": torch.tensor([3, 6])}
    hits = (logits.topk(3, dim=-1).indices == targets[..., None]).any(-1)[targets != IGNORED_TARGET]
    assert computed(task, logits, batch)["top3"] == pytest.approx(float(hits.float().mean()))


def test_one_of_the_tasks_own_metrics_may_decide() -> None:
    assert ImageClassification(small_backbone(), 9, primary_metric="loss").primary_metric == PrimaryMetric(
        "loss", "min"
    )
    task = SemanticSegmentation(small_backbone(), 3, primary_metric="pixel_accuracy")
    assert task.primary_metric == PrimaryMetric("pixel_accuracy", "max")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"primary_metric": "acuracy"},
            "acuracy, which is no metric of this task; did you mean accuracy",
        ),
        ({"metrics": {"accuracy": MulticlassAccuracy(9)}}, "metrics has accuracy, which the task has of its own"),
        ({"metrics": {"odd": MeanIoU(9)}, "primary_metric": "even"}, "primary_metric is even, which is no metric"),
    ],
)
def test_names_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageClassification(small_backbone(), 9, **arguments)


def test_a_metric_without_direction_cannot_decide() -> None:
    with pytest.raises(InputError, match="doesn't say whether more is better"):
        ImageClassification(small_backbone(), 9, metrics={"odd": MeanMetric()}, primary_metric="odd")

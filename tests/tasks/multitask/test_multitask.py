"""Several tasks on one backbone: losses, weights, turns, metrics."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mambarium.backbones import MambaOut
from mambarium.errors import InputError
from mambarium.tasks import ClassificationObjective, DetectionObjective, MultiTask, SegmentationObjective
from mambarium.tasks.batches import DetectionBatch, ImageBatch, MultiTaskBatch, SegmentationBatch
from mambarium.tasks.detection.fcos import FCOS

NAMES = {"boxes": ["a", "b"], "pixels": ["a", "b", "c"], "whole": ["a", "b", "c", "d"]}


def sizes(count: int) -> dict[str, Tensor]:
    return {
        "valid_size": torch.full((count, 2), 16),
        "original_size": torch.full((count, 2), 16),
        "image_id": torch.arange(count),
    }


def of_tasks(*names: str, shared: bool) -> MultiTaskBatch:
    """Two images for each task, the same for all or not."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 3, 16, 16, generator=generator) for _ in NAMES]
    boxes, pixels, whole = [images[0]] * 3 if shared else images
    mask = torch.randint(3, (2, 16, 16), generator=generator)
    batches: dict[str, Any] = {
        "boxes": DetectionBatch(
            image=boxes,
            boxes=[torch.tensor([[2.0, 2.0, 9.0, 9.0]]), torch.zeros(0, 4)],
            labels=[torch.tensor([1]), torch.zeros(0, dtype=torch.int64)],
            crowd=[torch.zeros(1, dtype=torch.bool), torch.zeros(0, dtype=torch.bool)],
            area=[torch.tensor([49.0]), torch.zeros(0)],
            masks=None,
            **sizes(2),
        ),
        "pixels": SegmentationBatch(image=pixels, mask=mask, original_mask=list(mask), **sizes(2)),
        "whole": ImageBatch(image=whole, label=torch.tensor([3, 0])),
    }
    return MultiTaskBatch(tasks={name: batches[name] for name in names}, shared_images=shared)


def model(**options: Any) -> MultiTask:
    torch.manual_seed(0)
    backbone = MambaOut(depths=(1, 1, 1), widths=(8, 12, 16), kernel_size=3)
    fcos = partial(FCOS, strides=(4, 8, 16), channels=32, num_convs=1)
    return MultiTask(
        backbone,
        {
            "boxes": partial(DetectionObjective, detector=fcos),
            "pixels": SegmentationObjective,
            "whole": ClassificationObjective,
        },
        **{"num_classes": {name: len(classes) for name, classes in NAMES.items()}, "class_names": NAMES, **options},
    )


@pytest.mark.parametrize("shared", [True, False])
def test_losses_are_those_of_each_task_by_its_weight(shared: bool) -> None:
    task = model(weights={"pixels": 3.0})
    calls: list[Tensor] = []
    task.backbone.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[0]))
    batch = of_tasks("boxes", "pixels", "whole", shared=shared)
    losses = task.training_losses(batch)
    assert len(calls) == (1 if shared else 3)
    for name, weight in (("boxes", 1.0), ("pixels", 3.0), ("whole", 1.0)):
        part = batch["tasks"][name]
        expected = task.objective.objective(name).losses(task.backbone(part["image"]), part)
        torch.testing.assert_close(losses[name], weight * torch.stack(list(expected.values())).sum())


def test_learned_weights_follow_the_uncertainty() -> None:
    plain, learned = model(), model(weighting="uncertainty", weights={"pixels": 2.0})
    assert learned.objective.log_variances is not None
    batch = of_tasks("pixels", shared=True)
    loss = 2 * plain.training_losses(batch)["pixels"]
    with torch.no_grad():
        learned.objective.log_variances["pixels"].fill_(0.7)
    found = learned.training_losses(batch)["pixels"]
    torch.testing.assert_close(found, math.exp(-0.7) * loss + 0.7)
    found.backward()
    gradient = learned.objective.log_variances["pixels"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, 1 - math.exp(-0.7) * loss.detach())
    assert learned.objective.weight("pixels") == pytest.approx(2 * math.exp(-0.7))


def test_a_learned_weight_is_a_parameter_of_its_task_alone() -> None:
    plain, learned = (model(weighting=weighting).objective for weighting in ("fixed", "uncertainty"))
    own = list(map(id, learned.by_name["pixels"].parameters()))
    assert learned.log_variances is not None
    assert list(map(id, learned.parameters_of("pixels"))) == [*own, id(learned.log_variances["pixels"])]
    assert len(plain.parameters_of("pixels")) == len(own)


@torch.no_grad()
def test_metrics_of_each_task_and_their_mean() -> None:
    task = model().eval()
    metrics = task.objective.new_metrics()
    for name in NAMES:
        batch = of_tasks(name, shared=True)
        metrics.update(task.predictions(batch), batch)
    values = metrics.compute()
    primary = [values["boxes/AP"], values["pixels/mIoU"], values["whole/accuracy"]]
    assert values["mean"] == pytest.approx(float(sum(primary)) / 3)
    assert {"pixels/IoU/a", "whole/loss", "boxes/AP50"} <= set(values) == set(metrics.names)
    metrics.reset()
    assert metrics.metrics["pixels"].confusion.sum() == 0


@torch.no_grad()
def test_frequencies_of_the_data_reach_the_detector() -> None:
    task = model(class_frequencies={"boxes": ["r", "f"], "pixels": None}).eval()
    batch = of_tasks("boxes", "pixels", "whole", shared=True)
    batch["tasks"]["boxes"] |= {"negative_classes": [[0], []], "partial_classes": [[], []]}
    task.val_metrics.update(task.predictions(batch), batch)
    values = task.val_metrics.compute()
    assert set(values) == set(task.val_metrics.names)
    of_rarities = {name for name in values if name[-3:] in ("APr", "APc", "APf")}
    assert {name for name in of_rarities if not values[name].isnan()} == {"boxes/APf"}  # no rare object is there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_frequencies": {"boxes": ["r"]}}, "class_frequencies has 1 entries for 2 classes"),
        ({"weights": {"pixel": 1.0}}, "weights has a task 'pixel'"),
        ({"weights": {"pixels": 0.0}}, "weights.pixels is 0.0"),
        ({"weights": {"pixels": -0.5}}, "weights.pixels is -0.5"),
        ({"gradient_norms_every": -1}, "gradient_norms_every is -1"),
        ({"class_names": {"box": ["a", "b"]}}, "class_names has 2 names for 'box', but the tasks are boxes"),
        ({"class_names": {"boxes": ["a"]}}, "class_names has 1 names for 'boxes', but the tasks are boxes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        model(**options)
    assert "\n" not in str(caught.value)


def test_a_weight_below_one_and_no_gradient_norms_are_settings_too() -> None:
    task = model(weights={"pixels": 0.5}, gradient_norms_every=0)
    assert task.objective.weights["pixels"] == 0.5


def test_a_task_without_names_has_numbers() -> None:
    task = model(class_names={"boxes": NAMES["boxes"]})
    assert task.predictors["pixels"][1].class_names == [str(number) for number in range(len(NAMES["pixels"]))]


def test_tasks_that_the_data_lacks_are_refused() -> None:
    with pytest.raises(InputError, match=r"^objectives are for pixels but the data is for boxes"):
        MultiTask(MambaOut(depths=(1,), widths=(8,)), {"pixels": SegmentationObjective}, num_classes={"boxes": 2})

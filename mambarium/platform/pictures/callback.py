"""Pictures of a task's predictions on the same validation images after each validation, in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.data.core.multitask import MultiTaskData
from mambarium.platform.pictures.predicted import (
    class_below_truth,
    detections_beside_truth,
    segmentation_beside_truth,
)
from mambarium.platform.runs.tensorboard import RunTensorBoard
from mambarium.tasks.classification.classification_task import ClassificationObjective
from mambarium.tasks.detection.detection_task import DetectionObjective
from mambarium.tasks.multitask.several_tasks import ObjectiveSet
from mambarium.tasks.objective import Objective, VisionObjective
from mambarium.tasks.segmentation.segmentation_task import SegmentationObjective
from mambarium.tasks.task import Task

KINDS: dict[type[Objective], tuple[str, Callable[[Any, Any, Sequence[str]], Tensor]]] = {
    ClassificationObjective: ("classification", class_below_truth),
    SegmentationObjective: ("segmentation", segmentation_beside_truth),
    DetectionObjective: ("detection", detections_beside_truth),
}
"""The name of each objective's pictures, and what draws a sample, a prediction and the classes' names."""


class PredictionPictures(Callback):
    """Draws truth and predictions of a few validation images, spread evenly over the set.

    Every validation shows the same images, so TensorBoard's slider shows how the model learns. The first process
    draws.

    Args:
        images: How many images.

    Raises:
        InputError: If the number is negative.
    """

    def __init__(self, images: int = 4) -> None:
        if images < 0:
            raise InputError(f"images of PredictionPictures is {images}: give 0 for none, or more")
        self.images = images

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        board = next((logger for logger in trainer.loggers if isinstance(logger, RunTensorBoard)), None)
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero or board is None or not self.images:
            return
        assert isinstance(pl_module, Task)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
        with trainer.precision_plugin.forward_context():
            drawn = self._draw(pl_module, pl_module.objective, data)
        for name, pictures in drawn.items():
            for index, picture in enumerate(pictures):
                board.experiment.add_image(f"{name}/{index}", picture, trainer.global_step)

    def _draw(self, task: Task, objective: Objective, data: ExactDataModule) -> Mapping[str, list[Tensor]]:
        """Pictures by the name under which TensorBoard shows them."""
        if isinstance(objective, ObjectiveSet) and isinstance(data, MultiTaskData):
            return {
                f"{name}/{kind}": pictures
                for name, of_task in data.tasks.items()
                for kind, pictures in self._draw(task, objective.objective(name), of_task).items()
            }
        if type(objective) not in KINDS:
            return {}
        assert isinstance(objective, VisionObjective)
        data_set = data.validation_samples()
        count = min(self.images, len(data_set))
        samples: list[Any] = [data_set[0, position * len(data_set) // count] for position in range(count)]
        batch = task.trainer.precision_plugin.convert_input(data.collate(samples))
        batch = task.transfer_batch_to_device(batch, task.device, 0)
        predictions: list[Any] = objective.predictions(task.backbone, batch)  # type: ignore[arg-type]  # such a task has a vision backbone
        kind, draw = KINDS[type(objective)]
        names = data.class_names  # type: ignore[attr-defined]  # of every data module of such a task
        return {kind: [draw(*pair, names) for pair in zip(samples, predictions, strict=True)]}

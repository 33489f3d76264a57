"""Pictures of a task's predictions on the same validation images after each validation, in TensorBoard."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from mambarium.errors import InputError
from mambarium.platform.runs.tensorboard import RunTensorBoard
from mambarium.tasks.objective import VisionObjective
from mambarium.tasks.task import Task


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
            raise InputError(f"images of PredictionPictures is {images}; give 0 for none, or more")
        self.images = images

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        board = next((logger for logger in trainer.loggers if isinstance(logger, RunTensorBoard)), None)
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero or board is None or not self.images:
            return
        assert isinstance(pl_module, Task)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
        for name, (_, objective) in pl_module.predictors.items():
            if not isinstance(objective, VisionObjective):
                continue
            with trainer.precision_plugin.forward_context():
                pictures = self._draw(pl_module, objective, data.of_tasks[name])
            for index, picture in enumerate(pictures):
                place = f"{name}/{objective.kind}/{index}".removeprefix("/")
                board.experiment.add_image(place, picture, trainer.global_step)

    def _draw(self, task: Task, objective: VisionObjective, data: Any) -> list[Tensor]:
        data_set = data.validation_samples()
        count = min(self.images, len(data_set))
        samples: list[Any] = [data_set[0, position * len(data_set) // count] for position in range(count)]
        batch = task.trainer.precision_plugin.convert_input(data.collate(samples))
        batch = task.transfer_batch_to_device(batch, task.device, 0)
        predictions: list[Any] = objective.predictions(task.backbone, batch)  # type: ignore[arg-type]  # such a task has a vision backbone
        drawn = [
            objective.draw(data.draw_sample(sample), sample, prediction, data.class_names)
            for sample, prediction in zip(samples, predictions, strict=True)
        ]
        return [picture for picture in drawn if picture is not None]

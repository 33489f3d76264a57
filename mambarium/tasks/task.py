"""The LightningModule that every task is: backbone, objective, optimiser, logging."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mambarium.backbones.contract import Backbone
from mambarium.tasks.objective import Objective, PrimaryMetric, TaskMetrics
from mambarium.tasks.optimization import Constant, OptimizerFactory, Schedule, SharedFactory, parameter_groups


class Task(LightningModule):
    """Trains a backbone under an objective.

    The summed loss is logged as `train/loss`, its parts, if there are several, as `train/<name>`, metrics as
    `val/<name>` and `test/<name>`.

    Args:
        backbone: The network that turns the input into features.
        objective: Head, loss and metrics on those features.
        optimizer: Makes the optimiser from parameter groups; AdamW with its defaults if None.
        schedule: Learning-rate factor over the run; constant if None.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimizer: OptimizerFactory | None,
        schedule: Schedule | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective
        self.optimizer_factory = SharedFactory(optimizer or AdamW)
        self.schedule = schedule or Constant()
        self.val_metrics = objective.new_metrics()
        self.test_metrics = objective.new_metrics()

    def save_constructor_arguments(self, *modules: str) -> None:
        """Record the arguments of the calling constructor in checkpoints, for `load_from_checkpoint`.

        The command line hands every argument over as plain data. Arguments given in Python are recorded only where they
        are plain data: a module or an optimiser class in a checkpoint could not be loaded with `weights_only=True`, so
        `load_from_checkpoint` then wants them again.

        Args:
            modules: Names of arguments that are no plain data in Python, besides backbone, optimizer and schedule.
        """
        from_command_line = bool(_given_hyperparameters.get())
        ignore = () if from_command_line else ("backbone", "optimizer", "schedule", *modules)
        constructor = inspect.currentframe()
        assert constructor is not None
        self.save_hyperparameters(ignore=ignore, frame=constructor.f_back)

    @property
    def primary_metric(self) -> PrimaryMetric:
        """The metric by which runs of this task are ranked."""
        return self.objective.primary_metric

    @abstractmethod
    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        """Losses of a training batch by name, auxiliary ones of the backbone included; their sum is trained on."""

    @abstractmethod
    def predictions(self, batch: Any) -> Any:
        """What the objective's metrics compare with the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self.training_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        if len(losses) > 1:
            self.log_dict({f"train/{name}": loss.detach() for name, loss in losses.items()})
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metrics.update(self.predictions(batch), batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_metrics.update(self.predictions(batch), batch)

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.test_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: TaskMetrics) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == self.primary_metric.name, rank_zero_only=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer_factory(parameter_groups(self))
        total_steps = self.trainer.estimated_stepping_batches
        # The rate at step s is that of the update to step s + 1, so that the first update is not wasted at rate 0.
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(min((step + 1) / total_steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

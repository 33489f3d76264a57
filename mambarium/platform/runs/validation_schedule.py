"""When validation falls due, and that it is neither skipped nor repeated by an interruption."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from mambarium.errors import InputError
from mambarium.platform.position import Position
from mambarium.private_names.lightning import place_between_batches


class ValidationSchedule(Callback):
    """Lets Lightning validate every so many steps or passes and after the last batch, exactly over resumes.

    Whether a validation is owed (due but not completed) is part of every checkpoint; a resumed run does an
    owed one first, whole. Belongs right behind Position among the callbacks.

    Args:
        every: An int counts optimiser steps between validations, a float passes through the training data.

    Raises:
        InputError: If `every` is not above 0.
    """

    def __init__(self, every: int | float = 1.0) -> None:
        if isinstance(every, bool) or not isinstance(every, int | float) or not every > 0:
            raise InputError(
                f"trainer.val_check_interval is {every!r}; give a whole number of steps, or a decimal "
                "number of passes (1.0 validates once per pass)"
            )
        self.every = every
        self.owed = False
        self._every_batches = 0
        self._missing_step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"owed": self.owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.owed = state_dict["owed"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        states = checkpoint.get("callbacks", {})
        if "Position" not in states or self.state_key not in states:
            raise InputError("the checkpoint was not written by a run of this program: it can be tested, not resumed")
        position = Position.of(trainer)
        position.load_state_dict(states[position.state_key])
        owed = states[self.state_key]["owed"]
        fit_loop = checkpoint["loops"]["fit_loop"]
        place_between_batches(fit_loop, position.finished_batches, position.optimizer_steps(trainer), owed)
        if owed and checkpoint["global_step"] == trainer.max_steps:
            # Lightning would find the run done and leave before the owed validation
            progress = fit_loop["epoch_loop.automatic_optimization.optim_progress"]
            progress["optimizer"]["step"]["total"]["completed"] -= 1
            self._missing_step = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        position = Position.of(trainer)
        window = trainer.accumulate_grad_batches
        if isinstance(self.every, int):
            self._every_batches = self.every * window
        else:
            if position.batches_per_pass is None:
                raise InputError(
                    f"trainer.val_check_interval {self.every} counts passes, which this data can't: "
                    "give a whole number of steps"
                )
            self._every_batches = max(1, round(self.every * position.batches_per_pass / window)) * window
        unfinished_window = position.finished_batches % window
        if unfinished_window and position.finished_batches != trainer.num_training_batches:
            raise InputError(
                f"the checkpoint lies {unfinished_window} batches into an accumulation of {window}, whose "
                "gradients it lacks; resume from checkpoints/last.ckpt"
            )
        self._check_schedulers(trainer)
        self._tell_lightning(trainer, position.finished_batches, self.owed)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        finished = Position.of(trainer).finished_batches
        last = finished == trainer.num_training_batches
        self.owed = trainer.enable_validation and (last or finished % self._every_batches == 0)
        self._tell_lightning(trainer, finished, self.owed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.owed = True
        steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.completed += self._missing_step
        self._missing_step = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.owed = False

    def _check_schedulers(self, trainer: Trainer) -> None:
        """Learning rates must follow steps, those that watch a validation metric must follow validations."""
        for config in trainer.lr_scheduler_configs:
            name = type(config.scheduler).__name__
            if config.reduce_on_plateau and (config.interval != "step" or config.frequency % self._every_batches):
                raise InputError(
                    f"{name} must be stepped with validations; give it interval 'step' and frequency "
                    f"{self._every_batches}"
                )
            if config.interval != "step":
                raise InputError(f"{name} would be stepped once, at the end; give it interval 'step'")

    @staticmethod
    def _tell_lightning(trainer: Trainer, finished_batches: int, due: bool) -> None:
        """Lightning validates where the batch count is a multiple of `val_check_batch`."""
        trainer.val_check_batch = finished_batches if due else finished_batches + 1

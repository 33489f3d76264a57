"""What becomes of Lightning's callbacks in a run that is one long epoch: they work, or are refused by name."""

import difflib
import importlib.util
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightnings
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mambarium.errors import InputError
from mambarium.private_names.lightning import checks_after_epochs, looks_after_epochs, watches_the_cpu


class Rule(NamedTuple):
    """What becomes of a callback of a class, and of those derived from it.

    Args:
        does: What it does here; empty if it is always refused.
        fault: Why it is refused and what to use instead, to be read after its name.
        is_refused: Whether a callback of the class has the fault.
    """

    does: str = ""
    fault: str = ""
    is_refused: Callable[[Any], bool] = lambda callback: False


def refused(fault: str) -> Rule:
    """Return a rule that lets no callback of the class pass."""
    return Rule("", fault, lambda callback: True)


NO_CHECKPOINT_CALLBACKS = (
    "would write files that no resumed run keeps track of: checkpoints/last.ckpt and best.ckpt are always written, "
    "copy one to keep it"
)
AVERAGES = Rule(
    "validates and stores the average of the weights, updated after optimiser steps",
    "averages after epochs, of which a run has one; use EMAWeightAveraging's update_starting_at_step, or step_idx in "
    "should_update",
    lambda callback: callback.should_update(epoch_idx=sys.maxsize),
)
PROGRESS_BAR = Rule("is shown in place of the command line's own bar, all passes being one epoch")
UNFREEZES = refused(
    "unfreezes by epochs, of which a run has one; use model.frozen_stages, or model.layer_decay for slower rates"
)

RULES: dict[type[Callback], Rule] = {
    Callback: Rule("your own: its hooks of steps and validations, as always; those of the training epoch, once a run"),
    lightnings.BackboneFinetuning: UNFREEZES,
    lightnings.BaseFinetuning: UNFREEZES,
    lightnings.BasePredictionWriter: Rule("your own: writes what predict finds in images"),
    lightnings.BatchSizeFinder: refused("tries batch sizes in trainings of its own; set data.batch_size"),
    lightnings.Checkpoint: refused(NO_CHECKPOINT_CALLBACKS),
    lightnings.DeviceStatsMonitor: Rule(
        "logs what the device and, with psutil installed, the CPU are doing",
        "needs psutil, which isn't installed: pip install psutil, or set cpu_stats to false",
        lambda callback: watches_the_cpu(callback) and importlib.util.find_spec("psutil") is None,
    ),
    lightnings.EarlyStopping: Rule(
        "checks after each validation; patience counts validations",
        "would check once, at the end of the run; leave check_on_train_epoch_end out to check after each validation",
        checks_after_epochs,
    ),
    lightnings.EMAWeightAveraging: AVERAGES,
    lightnings.GradientAccumulationScheduler: refused(
        "changes the accumulation by epochs, of which a run has one; set trainer.accumulate_grad_batches for all steps"
    ),
    lightnings.LambdaCallback: Rule("your own functions, as with a callback of your own"),
    lightnings.LearningRateFinder: refused("tries learning rates in a training of its own; set model.optimizer.lr"),
    lightnings.LearningRateMonitor: Rule(
        "logs the learning rates every trainer.log_every_n_steps",
        "would log once, at the start of the run; set logging_interval to step",
        lambda callback: callback.logging_interval == "epoch",
    ),
    lightnings.ModelCheckpoint: refused(NO_CHECKPOINT_CALLBACKS),
    lightnings.ModelPruning: refused(
        "prunes by epochs, of which a run has one, and keeps no masks in checkpoints: prune a finished run's weights "
        "with torch.nn.utils.prune"
    ),
    lightnings.ModelSummary: Rule("prints the model's layers at the start"),
    lightnings.OnExceptionCheckpoint: refused(
        "would store half a step, from which no run can go on: checkpoints/last.ckpt is written every few minutes"
    ),
    lightnings.ProgressBar: PROGRESS_BAR,
    lightnings.RichModelSummary: Rule("prints the model's layers at the start"),
    lightnings.RichProgressBar: PROGRESS_BAR,
    lightnings.SpikeDetection: refused(
        "can't be resumed: a loss that is NaN or infinite stops every run; for one that is too high use EarlyStopping "
        "with monitor train/loss and a divergence_threshold"
    ),
    lightnings.StochasticWeightAveraging: refused(
        "averages after epochs, of which a run has one; use EMAWeightAveraging with update_starting_at_step, and "
        "model.schedule for the learning rate"
    ),
    lightnings.ThroughputMonitor: Rule("logs samples and batches per second; its window begins anew after a resume"),
    lightnings.Timer: Rule(
        "ends the run after the given time of training, interruptions left out, with a validation",
        "would look at the clock once, at the end of the run; leave interval out to do it after each step",
        looks_after_epochs,
    ),
    lightnings.TQDMProgressBar: PROGRESS_BAR,
    lightnings.WeightAveraging: AVERAGES,
}
"""Every callback that Lightning exports; the nearest class that a callback is derived from holds."""

EPOCH_HOOKS = {
    "on_train_epoch_start": "before the first step",
    "on_train_epoch_end": "after the last step",
}


def check_callbacks(callbacks: Sequence[Callback], logged: Collection[str] = ()) -> None:
    """Refuse callbacks of the user's that can't work here, or monitor what is surely never logged.

    The names under which the task logs in validation are empty where they aren't known.
    """
    for callback in callbacks:
        rule = next(RULES[parent] for parent in type(callback).__mro__ if parent in RULES)
        if rule.is_refused(callback):
            raise InputError(f"trainer.callbacks: {type(callback).__name__} {rule.fault}")
    if not logged or any(is_foreign(type(callback)) for callback in callbacks):
        return
    for name, monitor in monitors(callbacks):
        # losses by name and learning rates are known after the first step
        if monitor not in logged and not monitor.startswith(("train/", "lr-")):
            raise InputError(not_logged(name, monitor, logged))


def monitors(callbacks: Sequence[Callback]) -> list[tuple[str, str]]:
    """Names of callbacks, and what each needs to be logged."""
    return [
        (type(callback).__name__, callback.monitor)
        for callback in callbacks
        if isinstance(callback, lightnings.EarlyStopping) and callback.strict
    ]


def not_logged(name: str, monitor: str, logged: Collection[str]) -> str:
    """Return a line that says that a monitored name is missing, and which names there are."""
    near = difflib.get_close_matches(monitor, sorted(logged), n=3, cutoff=0.5)
    names = ", ".join(near or sorted(logged)[:6])
    return f"{name} monitors '{monitor}', which is not logged; {'near it are' if near else 'there are'}: {names}"


def is_foreign(kind: Any) -> bool:
    """Whether a class or function is neither ours nor Lightning's."""
    return (kind.__module__ or "").split(".")[0] not in ("mambarium", "lightning")


class CallbackCheck(Callback):
    """Holds the callbacks of a fit to `RULES`, and what they and schedulers monitor to what is logged.

    It sees those that a model brings along, too. What is monitored must have been logged after the first validation;
    where the names are known beforehand, `check_callbacks` sees it earlier. Belongs before the user's callbacks.
    """

    def __init__(self) -> None:
        self._monitored_are_logged = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.FITTING:
            return
        callbacks = self._callbacks(trainer)
        check_callbacks(callbacks)
        for callback in callbacks:
            for hook, when in EPOCH_HOOKS.items():
                function = getattr(callback, hook)
                if is_foreign(function):
                    rank_zero_only(print)(
                        f"note: {hook} of {type(callback).__name__} is called once, {when}: all passes are one epoch; "
                        "hooks of validation are called at each",
                        file=sys.stderr,
                        flush=True,
                    )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validates = trainer.enable_validation and any(trainer.num_val_batches)
        if not validates and (needed := self._monitored(trainer)):
            name, monitor = needed[0]
            raise InputError(f"{name} monitors '{monitor}' at each validation, but this run has none; leave it out")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or self._monitored_are_logged:
            return
        for name, monitor in self._monitored(trainer):
            if monitor not in trainer.callback_metrics:
                raise InputError(not_logged(name, monitor, list(trainer.callback_metrics)))
        self._monitored_are_logged = True

    def _monitored(self, trainer: Trainer) -> list[tuple[str, str]]:
        schedulers = [
            (type(config.scheduler).__name__, config.monitor)
            for config in trainer.lr_scheduler_configs
            if config.monitor is not None and config.reduce_on_plateau and config.strict
        ]
        return [*monitors(self._callbacks(trainer)), *schedulers]

    @staticmethod
    def _callbacks(trainer: Trainer) -> list[Callback]:
        return trainer.callbacks  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy

"""What a run says of itself at its start and its end."""

from __future__ import annotations

from lightning.pytorch import Trainer
from torch import nn

from mambarium.platform.data.module import ExactDataModule
from mambarium.platform.resume.csv_logger import MetricsFile
from mambarium.platform.run_folder import Decision, RunFolder
from mambarium.tasks.task import Task


def number_of_parameters(module: nn.Module) -> int:
    """Trainable and frozen parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def metrics_of(trainer: Trainer) -> dict[str, float]:
    """The last value of each metric that validation or testing logged."""
    return {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(("val/", "test/"))
    }


def train_seconds(trainer: Trainer) -> float:
    """Seconds of training that went into the weights, over all parts of an interrupted run."""
    return next(logger.seconds for logger in trainer.loggers if isinstance(logger, MetricsFile))


def describe_start(folder: RunFolder, decision: Decision, trainer: Trainer, model: Task, data: ExactDataModule) -> str:
    """What is about to be trained, on what, for how long, and whether it is new.

    Raises:
        InputError: If the data can't be read or doesn't fill a batch.
    """
    data.trainer = trainer
    how = f"going on from {decision.checkpoint}" if decision.checkpoint else "new"
    steps = data.total_batches // trainer.accumulate_grad_batches
    device = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    return "\n".join(
        [
            f"run      {folder.path} ({how})",
            f"model    {type(model.backbone).__name__}, {number_of_parameters(model):,} parameters, "
            f"of them {number_of_parameters(model.backbone):,} in the backbone",
            f"data     {type(data).__name__}, {len(data.training_samples()):,} training samples, "
            f"{len(data.validation_samples()):,} for validation",
            f"length   {steps:,} steps of {data.batch_size * trainer.accumulate_grad_batches} samples, "
            f"{data.total_batches / data.batches_per_pass:.4g} passes, on {device}",
        ]
    )


def describe_end(folder: RunFolder, model: Task, data: ExactDataModule, compilation_seconds: float) -> None:
    """Print the last validation, what it can be measured by, and where the run's files lie."""
    record = folder.record()
    compiled = f" (and {compilation_seconds:.0f} s compiling CPU kernels)" if compilation_seconds >= 0.5 else ""
    print(f"\nfinished {record['step']:,} steps in {record['train_seconds']:.0f} s{compiled}")
    primary = f"val/{model.primary_metric.name}"
    metrics = sorted(record["metrics"].items(), key=lambda item: item[0] != primary)
    for name, value in metrics:
        print(f"  {name:20} {value:.4f}")
    for name, value in data.reference_figures().items():
        print(f"  {name:20} {value:.4f}   (reference, computed on the same data)")
    print(f"checkpoints  {folder.last_checkpoint}, {folder.best_checkpoint.name}")
    print(f"TensorBoard  tensorboard --logdir {folder.tensorboard}")
    print(f"metrics      {folder.metrics_path}", flush=True)

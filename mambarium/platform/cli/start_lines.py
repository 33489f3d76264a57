"""What a run says of itself at its start and its end."""

from __future__ import annotations

from math import ceil

from lightning.pytorch import Trainer
from torch import nn

from mambarium.platform.cli.result_files import metric_lines
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.runs.checkpoints import RunCheckpoint
from mambarium.platform.runs.metrics_file import MetricsFile
from mambarium.platform.runs.run_folder import Decision, RunFolder
from mambarium.tasks.objective import VisionObjective
from mambarium.tasks.task import Task


def number_of_parameters(module: nn.Module) -> int:
    """Trainable and frozen parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def metrics_of(trainer: Trainer) -> dict[str, float]:
    """Return the last value of each metric that validation or testing logged."""
    return {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(("val/", "test/"))
    }


def run_checkpoint(trainer: Trainer) -> RunCheckpoint:
    """Return what keeps a run's checkpoints, and knows what the last one holds."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, RunCheckpoint))  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy


def train_seconds(trainer: Trainer) -> float:
    """Seconds of training that went into the weights, over all parts of an interrupted run."""
    return next(round(logger.seconds, 3) for logger in trainer.loggers if isinstance(logger, MetricsFile))


def describe_start(folder: RunFolder, decision: Decision, trainer: Trainer, model: Task, data: ExactDataModule) -> str:
    """Return what is about to be trained, on what, for how long, and whether it is new."""
    data.trainer = trainer
    found = decision.found
    how = f"going on from {found.path}, step {found.checkpoint['global_step']}" if found else "new"
    steps = ceil(data.total_batches / trainer.accumulate_grad_batches)
    device = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    return "\n".join(
        [
            *(f"note: {note}" for note in (found.notes if found else ())),
            f"run      {folder.path} ({how})",
            f"model    {type(model.backbone).__name__}, {number_of_parameters(model):,} parameters, "
            f"of them {number_of_parameters(model.backbone):,} in the backbone",
            f"data     {type(data).__name__}, {len(data.training_samples()):,} training samples, "
            f"{len(data.validation_samples()):,} for validation",
            *data.description(),
            *result_limits(model, data),
            f"length   {steps:,} steps of {data.batch_size * trainer.accumulate_grad_batches} samples, "
            f"{data.total_batches / data.batches_per_pass:.4g} passes, on {device}",
        ]
    )


def result_limits(model: Task, data: ExactDataModule) -> list[str]:
    """How many results of an image are made and counted, for each task that has such limits."""
    return [
        f"{line} ({name})" if name else line
        for name, (_, objective) in model.predictors.items()
        if isinstance(objective, VisionObjective)
        for line in objective.limits(data.of_tasks[name].most_objects())
    ]


def describe_end(folder: RunFolder) -> str:
    """Return a finished run's last validation, what it can be measured by, and where its files lie."""
    record = folder.record()
    compilation = record["compilation_seconds"]
    compiled = f" (and {compilation:.0f} s loading or compiling CPU kernels)" if compilation >= 0.5 else ""
    lines = [f"\nfinished {record['step']:,} steps in {record['train_seconds']:.0f} s{compiled}"]
    primary = f"val/{record['primary_metric']['name']}"
    lines += metric_lines(dict(sorted(record.get("metrics", {}).items(), key=lambda item: item[0] != primary)))
    for name, value in record["references"].items():
        lines.append(f"  {name:20} {value:.4f}   (for comparison, computed on the same data)")
    kept = [path.name for path in (folder.last_checkpoint, folder.best_checkpoint) if path.exists()]
    lines.append(f"checkpoints  {folder.checkpoints} ({', '.join(kept)})")
    lines.append(f"TensorBoard  tensorboard --logdir {folder.tensorboard}")
    lines.append(f"metrics      {folder.metrics_path}")
    return "\n".join(lines)

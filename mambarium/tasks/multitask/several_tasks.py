"""Several tasks on one backbone, each with its own data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from mambarium.backbones.contract import Backbone, VisionBackbone, VisionFeatures
from mambarium.errors import InputError
from mambarium.inherited_options import Inherited
from mambarium.tasks.batches import MultiTaskBatch
from mambarium.tasks.dense.maps import pad_images, padded_batch
from mambarium.tasks.detection.average_precision import Frequency
from mambarium.tasks.detection.detection_task import DetectionObjective
from mambarium.tasks.objective import Objective, PrimaryMetric, TaskMetrics, VisionObjective
from mambarium.tasks.task import Task, TrainingOptions
from mambarium.tasks.vision_task import vision_backbone

VisionObjectiveFactory = Callable[[VisionBackbone, Sequence[str]], VisionObjective]
"""Makes an objective from the backbone and the names of its classes; in YAML a `class_path` of an objective."""


class MultiTaskMetrics(TaskMetrics):
    """The metrics of each task as `<task>/<metric>`, and `mean`, the mean of the tasks' primary ones."""

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict({name: objective.new_metrics() for name, objective in objectives.items()})
        self.primary = {name: objective.primary_metric.name for name, objective in objectives.items()}

    @property
    def names(self) -> tuple[str, ...]:
        names = {name: self.of_task(name).names for name in self.primary}
        known = all(names.values())
        return ("mean", *(f"{name}/{metric}" for name in names for metric in names[name])) if known else ()

    def update(self, predictions: Mapping[str, Any], batch: MultiTaskBatch) -> None:
        for name, of_task in predictions.items():
            self.of_task(name).update(of_task, batch["tasks"][name])

    def compute(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        primary: list[Tensor] = []
        for name, primary_name in self.primary.items():
            of_task = self.of_task(name).compute()
            primary.append(of_task[primary_name])
            values |= {f"{name}/{metric}": value for metric, value in of_task.items()}
        return {"mean": torch.stack([value.float() for value in primary]).mean(), **values}

    def reset(self) -> None:
        super().reset()
        for name in self.primary:
            self.of_task(name).reset()

    def of_task(self, name: str) -> TaskMetrics:
        """Return the metrics of a task."""
        metrics = self.metrics[name]
        assert isinstance(metrics, TaskMetrics)
        return metrics


class ObjectiveSet(Objective):
    """Objectives by name, and how their losses are weighed against each other.

    With `uncertainty` the loss of a task is exp(-s) L + s, its log-variance s learned (Kendall, Gal and Cipolla 2018,
    eq. 7, without the factors one half), on top of the fixed weights.

    Args:
        objectives: Each task's objective.
        weights: Each task's fixed weight; 1 where none is given.
        uncertainty: Whether weights are learned.

    Raises:
        InputError: If a weight is not above 0 or of an unknown task, or a task's metric is better when lower.
    """

    usual_metric = PrimaryMetric("mean", "max")

    def __init__(
        self, objectives: Mapping[str, VisionObjective], weights: Mapping[str, float], uncertainty: bool
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            if name not in objectives:
                raise InputError(f"weights has a task '{name}' that objectives lacks: it has {', '.join(objectives)}")
            if not weight > 0:
                raise InputError(f"weights.{name} is {weight}; give a number above 0")
        for name, objective in objectives.items():
            if objective.primary_metric.direction != "max":
                raise InputError(f"task '{name}' is ranked by a metric that is better when lower; train it on its own")
        self.by_name = nn.ModuleDict(objectives)
        self.weights = {name: float(weights.get(name, 1.0)) for name in objectives}
        self.log_variances: nn.ParameterDict | None = None
        if uncertainty:
            self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in objectives})

    def losses(self, features: Mapping[str, VisionFeatures], batch: MultiTaskBatch) -> dict[str, Tensor]:
        """Return the weighted loss of each task in the batch, from the features for each."""
        losses = {}
        for name, of_task in batch["tasks"].items():
            objective = self.objective(name)
            of_parts = objective.losses(features[name], padded_batch(of_task, objective.divisor))
            losses[name] = self._weighted(name, of_parts)
        return losses

    def predictions(self, backbone: VisionBackbone, batch: MultiTaskBatch) -> dict[str, Any]:
        """Each task's predictions on its batch."""
        return {name: self.objective(name).predictions(backbone, part) for name, part in batch["tasks"].items()}

    def own_metrics(self) -> MultiTaskMetrics:
        return MultiTaskMetrics({name: self.objective(name) for name in self.weights})

    def objective(self, name: str) -> VisionObjective:
        """Return the objective of a task."""
        objective = self.by_name[name]
        assert isinstance(objective, VisionObjective)
        return objective

    def weight(self, name: str) -> Tensor | float:
        """By how much the loss of a task counts now."""
        if self.log_variances is None:
            return self.weights[name]
        return self.weights[name] * torch.exp(-self.log_variances[name].detach())

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Parameters that serve one task alone."""
        own = list(self.by_name[name].parameters())
        return own if self.log_variances is None else [*own, self.log_variances[name]]

    def _weighted(self, name: str, losses: dict[str, Tensor]) -> Tensor:
        loss = self.weights[name] * torch.stack(list(losses.values())).sum()
        if self.log_variances is None:
            return loss
        return torch.exp(-self.log_variances[name]) * loss + self.log_variances[name]


class TaskPrediction(LightningModule):
    """One of several tasks, for prediction alone."""

    def __init__(self, backbone: VisionBackbone, objective: VisionObjective) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective

    def predict_step(self, batch: Any) -> Any:
        """As of the task alone: class probabilities, detections or class maps."""
        return self.objective.answers(self.objective.predictions(self.backbone, batch))


class MultiTask(Task):
    """Trains one vision backbone under several objectives at once.

    Logs, beside the summed loss, `train/<task>/loss`, `train/<task>/weight` and `train/<task>/gradient_norm`, the norm
    of the task's weighted loss' gradient in the backbone (on the first process, before processes are averaged). The
    last value of each task is logged in steps in which it has no turn. Metrics are `val/<task>/<metric>`; checkpoints
    are ranked by `val/mean`, the mean of the tasks' primary metrics.

    Args:
        backbone: The vision backbone.
        objectives: The objective of each task, by the name that its data has: DetectionObjective,
            SegmentationObjective, ClassificationObjective.
        num_classes: Number of classes of each task; the command line takes them from the data.
        class_names: The names of each task's classes; the command line takes them from the data, otherwise numbers.
        class_frequencies: For tasks of detection the frequency of each class ("r", "c", "f") for LVIS's evaluation; the
            command line takes them from the data. COCO's evaluation where none is given.
        weights: Weight of each task's loss; 1 where none is given.
        weighting: `fixed` keeps these weights, `uncertainty` learns a factor for each task beside them.
        gradient_norms_every: Turns of a task between measurements of its gradient norm, each of which costs one more
            backward pass; 0 for none.
        options: The other arguments of `Task`.

    Raises:
        InputError: If the backbone is no vision backbone, the tasks differ from those of the data, or a number is out
            of range.
    """

    objective: ObjectiveSet
    backbone: VisionBackbone

    def __init__(
        self,
        backbone: Backbone,
        objectives: dict[str, VisionObjectiveFactory],
        num_classes: dict[str, int],
        class_names: dict[str, list[str]] | None = None,
        class_frequencies: dict[str, list[Frequency] | None] | None = None,
        weights: dict[str, float] | None = None,
        weighting: Literal["fixed", "uncertainty"] = "fixed",
        gradient_norms_every: int = 50,
        **options: Inherited[TrainingOptions],
    ) -> None:
        if set(objectives) != set(num_classes):
            raise InputError(
                f"objectives are for {', '.join(objectives)} but the data is for {', '.join(num_classes)}: "
                "name the tasks alike"
            )
        if gradient_norms_every < 0:
            raise InputError(f"gradient_norms_every is {gradient_norms_every}; give 0 for never, or more")
        names = {task: [str(number) for number in range(count)] for task, count in num_classes.items()}
        for task, given in (class_names or {}).items():
            if task not in names or len(given) != num_classes[task]:
                known = ", ".join(f"{task} ({count} classes)" for task, count in num_classes.items())
                raise InputError(f"class_names has {len(given)} names for {task!r}, but the tasks are {known}")
            names[task] = given
        made = {task: factory(vision_backbone(backbone), names[task]) for task, factory in objectives.items()}
        for task, made_objective in made.items():
            if isinstance(made_objective, DetectionObjective) and class_frequencies:
                made_objective.take_frequencies(class_frequencies.get(task))
        objective = ObjectiveSet(made, weights or {}, uncertainty=weighting == "uncertainty")
        super().__init__(backbone, objective, **options)
        self.gradient_norms_every = gradient_norms_every
        self.turns = dict.fromkeys(objectives, 0)
        self.logged: dict[str, Tensor | float] = {}
        self.in_step: set[str] = set()
        self.save_constructor_arguments("objectives")

    def training_losses(self, batch: MultiTaskBatch) -> dict[str, Tensor]:
        features = self._features(batch)
        losses = self.objective.losses(features, batch)
        distinct = {id(of_task): of_task for of_task in features.values()}
        auxiliary = [loss for of_task in distinct.values() for loss in of_task.auxiliary_losses.values()]
        return losses | ({"auxiliary": torch.stack(auxiliary).sum()} if auxiliary else {})

    def predictions(self, batch: MultiTaskBatch) -> dict[str, Any]:
        return self.objective.predictions(self.backbone, batch)

    @property
    def predictors(self) -> dict[str, tuple[LightningModule, Objective]]:
        objectives = {name: self.objective.objective(name) for name in self.objective.weights}
        return {name: (TaskPrediction(self.backbone, one), one) for name, one in objectives.items()}

    def training_step(self, batch: MultiTaskBatch, batch_idx: int) -> Tensor:
        losses = self.training_losses(batch)
        for name in batch["tasks"]:
            self._note(name, losses[name])
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach(), prog_bar=True)
        self.log_dict(self.logged)
        self.in_step |= set(batch["tasks"])
        if self.trainer.world_size > 1:
            # Averaging gradients over processes waits for those of every parameter, of tasks without a turn too.
            for name in set(self.turns) - set(batch["tasks"]):
                total = total + sum(0.0 * parameter.flatten()[0] for parameter in self._trained(name))
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        for name in self.turns:
            if name not in self.in_step:
                for parameter in self._trained(name):
                    parameter.grad = None  # no step on a zero gradient: momentum and decay would move the weights
        self.in_step.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        logged = {name: float(value) for name, value in self.logged.items()}
        checkpoint["multitask"] = {"turns": dict(self.turns), "logged": logged, "in_step": sorted(self.in_step)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint["multitask"]
        self.turns, self.logged, self.in_step = dict(stored["turns"]), dict(stored["logged"]), set(stored["in_step"])

    def _features(self, batch: MultiTaskBatch) -> dict[str, VisionFeatures]:
        """Features for each task; computed once for all that see the same images padded alike."""
        features: dict[str, VisionFeatures] = {}
        of_size: dict[torch.Size, VisionFeatures] = {}
        for name, of_task in batch["tasks"].items():
            images = pad_images(of_task["image"], self.objective.objective(name).divisor)
            if images.shape not in of_size or not batch["shared_images"]:
                of_size[images.shape] = self.backbone(images)
            features[name] = of_size[images.shape]
        return features

    def _note(self, name: str, loss: Tensor) -> None:
        """Keep what is logged of a task until its next turn."""
        self.logged[f"train/{name}/loss"] = loss.detach()
        self.logged[f"train/{name}/weight"] = self.objective.weight(name)
        if self.gradient_norms_every and self.turns[name] % self.gradient_norms_every == 0:
            shared = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) if shared else ()
            norms = [gradient.norm() for gradient in gradients if gradient is not None]
            self.logged[f"train/{name}/gradient_norm"] = torch.stack(norms).norm() if norms else 0.0
        self.turns[name] += 1

    def _trained(self, name: str) -> list[nn.Parameter]:
        return [parameter for parameter in self.objective.parameters_of(name) if parameter.requires_grad]

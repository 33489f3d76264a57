"""What the tasks on images share: a vision backbone, padded batches, predictions by the objective."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mambarium.backbones.contract import Backbone, VisionBackbone
from mambarium.errors import InputError
from mambarium.tasks.dense.maps import padded_batch
from mambarium.tasks.objective import VisionObjective
from mambarium.tasks.task import Task


class VisionTask(Task):
    """Trains a vision backbone under one objective; its arguments are those of `Task`."""

    objective: VisionObjective
    backbone: VisionBackbone

    def training_losses(self, batch: Any) -> dict[str, Tensor]:
        padded = padded_batch(batch, self.objective.divisor)
        features = self.backbone(padded["image"])
        return self.objective.losses(features, padded) | features.auxiliary_losses

    def predictions(self, batch: Any) -> Any:
        return self.objective.predictions(self.backbone, batch)

    def predict_step(self, batch: Any) -> Any:
        """Predict what a user gets: class probabilities, detections or class maps."""
        return self.objective.answers(self.predictions(batch))


def vision_backbone(backbone: Backbone) -> VisionBackbone:
    """Return a backbone that a task on images can take; InputError if it is none."""
    if not isinstance(backbone, VisionBackbone):
        raise InputError(
            f"{type(backbone).__name__} is not a vision backbone; tasks on images take Vim, VMamba, MambaVision, ..."
        )
    return backbone


def named_classes(num_classes: int, class_names: Sequence[str] | None) -> list[str]:
    """Return one name per class, numbers where none are given; InputError if there is not one for each."""
    names = [str(number) for number in range(num_classes)] if class_names is None else list(class_names)
    if len(names) != num_classes:
        raise InputError(f"class_names has {len(names)} entries for {num_classes} classes; give one for each class")
    return names

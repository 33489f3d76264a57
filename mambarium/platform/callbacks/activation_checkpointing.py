"""Activation checkpointing as a callback."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from mambarium.backbones.recomputation import recompute_activations
from mambarium.tasks.task import Task


class ActivationCheckpointing(Callback):
    """Saves memory: activations within the backbone's repeated blocks are computed anew in the backward pass.

    In YAML: `class_path: mambarium.platform.callbacks.ActivationCheckpointing` among
    `trainer.callbacks`. Results don't change; each such block runs forward twice in a training step. Blocks with batch
    norm (MambaVision's convolutional ones) are left alone.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare the backbone."""
        if stage == "fit":
            assert isinstance(pl_module, Task)
            recompute_activations(pl_module.backbone)

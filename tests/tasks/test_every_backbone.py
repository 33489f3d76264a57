"""Every backbone of the zoo in every task of images: one step and an evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from mambarium.backbones import (
    LSTM,
    S4D,
    BlockRecurrentTransformer,
    BlockStateTransformer,
    ConvNeXt,
    LocalVim,
    LocalVMamba,
    Mamba,
    MambaOut,
    MambaVision,
    MambaYOLO,
    MoEMamba,
    SequenceBackbone,
    SequenceOnImages,
    Swin,
    Transformer,
    Vim,
    VisionBackbone,
    ViT,
    VMamba,
)
from mambarium.platform.data import Digits, DigitSceneDetection, DigitSceneSegmentation
from mambarium.tasks import FCOS, ImageClassification, ObjectDetection, SemanticSegmentation
from mambarium.tasks.task import Task

SEQUENCES: dict[str, Callable[[], SequenceBackbone]] = {
    "mamba": lambda: Mamba(8, 1, d_state=2),
    "moe_mamba": lambda: MoEMamba(8, 1, num_experts=2, d_state=2),
    "s4d": lambda: S4D(8, 1, d_state=4),
    "lstm": lambda: LSTM(8, 1),
    "transformer": lambda: Transformer(8, 1, num_heads=2),
    "block_recurrent_transformer": lambda: BlockRecurrentTransformer(8, 2, num_heads=2, window_size=8),
    "block_state_transformer": lambda: BlockStateTransformer(8, 2, num_heads=2, window_size=8),
}
VISION: dict[str, Callable[[], VisionBackbone]] = {
    "vim": lambda: Vim(image_size=32, patch_size=8, width=8, depth=1, d_state=2),
    "vmamba": lambda: VMamba(depths=(1, 1), widths=(8, 16)),
    "mambavision": lambda: MambaVision(depths=(1, 1, 1), width=8, num_heads=(2, 4), window_sizes=(3, 2), d_state=4),
    "mamba_yolo": lambda: MambaYOLO(depths=(1, 1), widths=(8, 16), d_state=2),
    "mambaout": lambda: MambaOut(depths=(1, 1), widths=(8, 16), kernel_size=3),
    "local_vim": lambda: LocalVim(32, 8, 8, (("rows", "window_2"),), d_state=2),
    "local_vmamba": lambda: LocalVMamba((1, 1), (8, 16), (("rows", "window_2"), ("columns", "window_2")), 2, 2),
    "vit": lambda: ViT(image_size=32, patch_size=8, width=8, depth=1, num_heads=2),
    "swin": lambda: Swin(depths=(1, 1), width=8, num_heads=(2, 4), window_size=3),
    "convnext": lambda: ConvNeXt(depths=(1, 1), widths=(8, 16)),
}
CASES = [(name, "classification") for name in VISION]  # the other two tasks stand in those tasks' own tests
CASES += [(name, task) for name in SEQUENCES for task in ("classification", "detection", "segmentation")]


def task_and_data(task: str, backbone: VisionBackbone) -> tuple[Task, Any]:
    if task == "classification":
        return ImageClassification(backbone, num_classes=10), Digits(image_size=32, batch_size=2)
    scenes = {"image_size": 32, "num_scenes": 2, "batch_size": 2}
    if task == "detection":
        fcos = partial(FCOS, strides=(8, 16), channels=32, num_convs=1)
        return ObjectDetection(backbone, num_classes=10, detector=fcos), DigitSceneDetection(**scenes)
    return SemanticSegmentation(backbone, num_classes=11, strides=[8, 16]), DigitSceneSegmentation(**scenes)


@pytest.mark.parametrize(("name", "task"), CASES)
def test_every_backbone_trains_a_step_and_evaluates(name: str, task: str) -> None:
    torch.manual_seed(0)
    model, data = task_and_data(task, VISION[name]() if name in VISION else SequenceOnImages(SEQUENCES[name](), 32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = model.training_losses(data.collate([data.training_samples()[0, index] for index in range(2)]))
    torch.stack(list(losses.values())).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    batch = data.collate([data.validation_samples()[0, index] for index in range(2)])
    with torch.no_grad():
        model.eval().val_metrics.update(model.predictions(batch), batch)
    assert 0 <= model.val_metrics.compute()[model.primary_metric.name] <= 1

"""What a run computes on and with what precision: each works, or is refused in one line before anything starts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, Precision
from torch.utils.data import DataLoader

from mambarium.backbones.contract import Backbone
from mambarium.platform.cli.configuration.devices import ClippedMixedPrecision
from mambarium.platform.cli.configuration.shipped_configs import configs_folder
from mambarium.platform.data import Digits, DigitSceneDetection, PydocTopics
from mambarium.tasks import FCOS, ImageClassification, LanguageModeling, ObjectDetection
from mambarium.tasks.task import Task

pytestmark = pytest.mark.thorough

Run = Callable[..., int]

BACKBONES = configs_folder() / "backbones"
SMALL = sorted(path for kind in ("small", "digits", "scenes") for path in BACKBONES.glob(f"*_{kind}.yaml"))
FUSED = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.fused", "true")
CLIPPED = ("--trainer.gradient_clip_val", "1.0")
WORKING = ("64-true", "32-true", "bf16-true", "bf16-mixed", "64", "32", "bf16")
REFUSED = {
    "16-mixed": "needs a GPU: on a CPU set bf16-mixed",
    "16": "needs a GPU: on a CPU set bf16-mixed",
    "16-true": "float16 weights lose small updates",
    "transformer-engine": "transformer-engine is not supported; set bf16-mixed",
    "transformer-engine-float16": "transformer-engine-float16 is not supported; set bf16-mixed",
}

TEXT = """
model:
  class_path: LanguageModeling
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002, weight_decay: 0.1, fused: true}}
    schedule: WarmupCosine
data:
  class_path: PydocTopics
  init_args: {batch_size: 2, length: 64, eval_length: 512, passes: null}
"""
DIGITS = """
model:
  class_path: ImageClassification
  init_args:
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002, weight_decay: 0.1, fused: true}}
    schedule: WarmupCosine
data:
  class_path: Digits
  init_args: {batch_size: 8, passes: null}
"""
SCENES = """
model:
  class_path: ObjectDetection
  init_args:
    detector: {class_path: FCOS, init_args: {strides: [4, 8, 16], channels: 32, num_convs: 1}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002, weight_decay: 0.1, fused: true}}
    schedule: WarmupCosine
data:
  class_path: DigitSceneDetection
  init_args: {batch_size: 4, num_scenes: 16, image_size: 48, passes: null}
"""


def values(annotation: Any) -> list[str]:
    """All values of nested literals."""
    nested = [values(argument) if get_args(argument) else [str(argument)] for argument in get_args(annotation)]
    return [value for group in nested for value in group]


def test_every_precision_of_lightning_is_tested_here() -> None:
    assert {*WORKING, *REFUSED} == set(values(_PRECISION_INPUT))


@pytest.mark.parametrize("config", ["digits", pytest.param("text", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", WORKING)
def test_precisions_that_work(tiny: Run, config: str, precision: str) -> None:
    options = ("--config", f"{config}.yaml", *FUSED, *CLIPPED, "--trainer.accelerator", "cpu")
    assert tiny("fit", *options, "--trainer.precision", precision) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *((("precision", precision), words) for precision, words in REFUSED.items()),
        (("accelerator", "tpu"), "trainer.accelerator tpu: the kernels run on cpu or cuda"),
        (("accelerator", "mps"), "trainer.accelerator mps: the kernels run on cpu or cuda"),
        (("accelerator", "hpu"), "trainer.accelerator hpu: the kernels run on cpu or cuda"),
        (("strategy", "ddp_spawn"), "trainer.strategy ddp_spawn can't be resumed exactly; set one of auto, ddp"),
        (("strategy", "fsdp"), "trainer.strategy fsdp can't be resumed exactly"),
        (("strategy", "deepspeed_stage_2"), "trainer.strategy deepspeed_stage_2 can't be resumed exactly"),
        (("strategy", "single_xla"), "trainer.strategy single_xla can't be resumed exactly"),
        (("devices", "[0,1]"), "trainer: `devices` selected with `CPUAccelerator` should be an int > 0."),
        (("profiler", "xla"), "trainer: Requirement 'torch_xla"),
    ],
)
def test_what_cannot_be_had(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], words: str
) -> None:
    name, value = options
    assert tiny("fit", "--config", "digits.yaml", f"--trainer.{name}", value) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and words in error, error
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["cuda", "gpu"])
def test_a_gpu_that_is_not_there(tiny: Run, capsys: pytest.CaptureFixture[str], accelerator: str) -> None:
    assert tiny("fit", "--config", "digits.yaml", "--trainer.accelerator", accelerator) == 2
    assert f"trainer.accelerator {accelerator}: PyTorch finds no CUDA GPU here" in capsys.readouterr().err


def test_a_precision_among_the_plugins(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = "lightning.pytorch.plugins.HalfPrecision"
    assert tiny("fit", "--config", "digits.yaml", "--trainer.plugins", plugin) == 2
    assert "set trainer.precision instead" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


class Line(LightningModule):
    """One step of SGD at rate 1, so that the weights move by the gradient."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.fused = fused

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return 100 * self.layer(batch).float().pow(2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0, fused=self.fused)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [0.25, None])
def test_gradients_are_clipped_whatever_steps_on_them(precision: Any, fused: bool, clip: float | None) -> None:
    torch.manual_seed(0)
    line, batch = Line(fused), torch.randn(8, 4)
    before = [parameter.detach().clone() for parameter in line.parameters()]
    with torch.autocast("cpu", torch.float16 if precision == "16-mixed" else torch.bfloat16):
        gradients = torch.autograd.grad(line.training_step(batch, 0), list(line.parameters()))
    plugin = ClippedMixedPrecision(
        precision, "cpu", torch.amp.GradScaler("cpu", 8.0) if precision == "16-mixed" else None
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=1, gradient_clip_val=clip, plugins=[plugin], logger=False, barebones=True
    )
    trainer.fit(line, DataLoader(batch, batch_size=8))
    moved = torch.cat([(old - new).flatten() for old, new in zip(before, line.parameters(), strict=True)])
    expected = torch.cat([gradient.flatten() for gradient in gradients])
    assert expected.norm() > 1
    if clip is not None:
        expected *= clip / expected.norm()
    torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-3)


def train(tiny: Run, tmp_path: Path, backbone: Path, steps: int, precision: str) -> int:
    """A run of a small backbone in its task."""
    config = {"small": TEXT, "digits": DIGITS, "scenes": SCENES}[backbone.stem.rpartition("_")[2]]
    trainer = "enable_progress_bar: false, gradient_clip_val: 1.0, limit_val_batches: 1"
    quiet = "callbacks: [{class_path: mambarium.platform.callbacks.PredictionPictures, init_args: {images: 0}}"
    quiet += ", {class_path: mambarium.platform.callbacks.TextSamples, init_args: {new_tokens: 0}}]"
    (tmp_path / "family.yaml").write_text(f"{config}trainer: {{{trainer}, {quiet}}}\n")
    length = ("--trainer.max_steps", steps, "--trainer.val_check_interval", steps)
    name = f"{backbone.stem}_{precision}"
    options = ("--model.backbone", backbone, *length, "--trainer.precision", precision, "--name", name)
    return tiny("fit", "--config", "family.yaml", *options)


def task_and_data(path: Path) -> tuple[Task, Any]:
    """A small backbone in its task."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    backbone = parser.instantiate(parser.parse_object({"backbone": str(path)})).backbone
    kind = path.stem.rpartition("_")[2]
    if kind == "small":
        return LanguageModeling(backbone, vocab_size=256), PydocTopics(batch_size=2, length=64)
    if kind == "digits":
        return ImageClassification(backbone, num_classes=10), Digits(batch_size=2)
    detector = partial(FCOS, strides=(4, 8, 16), channels=32, num_convs=1)
    scenes = DigitSceneDetection(batch_size=2, num_scenes=2, image_size=48)
    return ObjectDetection(backbone, num_classes=10, detector=detector), scenes


@pytest.mark.parametrize(
    "plugin",
    [
        ClippedMixedPrecision("bf16-mixed", "cpu"),
        HalfPrecision("bf16-true"),
        pytest.param(DoublePrecision(), marks=pytest.mark.slow),
    ],
    ids=["bf16-mixed", "bf16-true", "64-true"],
)
@pytest.mark.parametrize("backbone", SMALL, ids=lambda path: path.stem)
def test_every_family_takes_steps_in_every_precision(backbone: Path, plugin: Precision) -> None:
    torch.manual_seed(0)
    task, data = task_and_data(backbone)
    task = plugin.convert_module(task)
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    batch = plugin.convert_input(data.collate([data.training_samples()[0, index] for index in range(2)]))
    for _ in range(3):
        optimizer.zero_grad()
        with plugin.forward_context():
            loss = torch.stack(list(task.training_losses(batch).values())).sum()
        loss.backward()
        plugin.clip_gradients(optimizer, 1.0)
        optimizer.step()
        assert loss.isfinite()
        assert all(parameter.isfinite().all() for parameter in task.parameters())
    with plugin.forward_context(), torch.no_grad():
        task.eval().val_metrics.update(task.predictions(batch), batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    [
        "bf16-mixed",
        pytest.param("16-mixed", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
        "bf16-true",
        "64-true",
    ],
)
@pytest.mark.parametrize("backbone", SMALL, ids=lambda path: path.stem)
def test_every_family_trains_long_in_every_precision(tiny: Run, tmp_path: Path, backbone: Path, precision: str) -> None:
    assert train(tiny, tmp_path, backbone, 50, precision) == 0

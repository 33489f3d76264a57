"""Lightning's callbacks, and users' own, on the command line."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mambarium.platform.cli.quiet import quiet_lightning
from mambarium.tasks.task import Task

pytestmark = pytest.mark.thorough

Run = Callable[..., int]

OWN = """
from lightning.pytorch import Callback
from mambarium.tasks import ImageClassification

class Own(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pass

class OwnClassification(ImageClassification):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/own", 1.0, on_epoch=True, batch_size=1)
"""


def with_callbacks(tmp_path: Path, *callbacks: dict[str, Any], **trainer: Any) -> None:
    config = yaml.safe_load((tmp_path / "digits.yaml").read_text())
    config["trainer"] |= {"callbacks": list(callbacks), **trainer}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name if "." in name else f"lightning.pytorch.callbacks.{name}", "init_args": arguments}


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([callback("StochasticWeightAveraging", swa_lrs=0.001)], "EMAWeightAveraging with update_starting_at_step"),
        ([callback("GradientAccumulationScheduler", scheduling={1: 4})], "set trainer.accumulate_grad_batches"),
        ([callback("BatchSizeFinder")], "set data.batch_size"),
        ([callback("LearningRateFinder")], "set model.optimizer.lr"),
        ([callback("ModelCheckpoint")], "last.ckpt and best.ckpt are always written"),
        ([callback("EMAWeightAveraging", update_starting_at_epoch=1)], "update_starting_at_step"),
        ([callback("EarlyStopping", monitor="val/acuracy")], "near it are: val/accuracy"),
        ([callback("EarlyStopping", monitor="val_loss")], "near it are: val/loss"),
        ([callback("TQDMProgressBar"), callback("RichProgressBar")], "multiple progress bar"),
    ],
)
def test_refused_in_one_line(
    tiny: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    callbacks: list[Any],
    words: str,
) -> None:
    with_callbacks(tmp_path, *callbacks, enable_progress_bar=True)
    assert tiny("fit", "--config", "run.yaml") == 2
    assert not [found for found in recwarn if "serialize" in str(found.message)]
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error, error
    assert words in error, error
    assert not (tmp_path / "runs").exists()


def test_refused_in_an_evaluation_too(tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("fit", "--config", "digits.yaml", "--name", "run") == 0
    with_callbacks(tmp_path, callback("BatchSizeFinder"))
    assert tiny("test", "--config", "run.yaml") == 2
    assert "BatchSizeFinder tries batch sizes" in capsys.readouterr().err


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_a_users_bar_takes_the_place_of_ours(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: str
) -> None:
    assert tiny("fit", "--config", "digits.yaml", "--name", "without") == 0
    with_callbacks(tmp_path, callback(bar), callback("EarlyStopping", monitor="val/loss"), enable_progress_bar=True)
    plain = Task.training_step

    def stopped(self: Task, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", stopped)
        assert tiny("fit", "--config", "run.yaml") == 143
    assert tiny("fit", "--config", "run.yaml") == 0
    assert tiny("test", "--config", "run.yaml") == 0
    one, other = (
        torch.load(tmp_path / "runs" / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("without", "run")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_users_callback_and_task(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    text = (tmp_path / "digits.yaml").read_text()
    (tmp_path / "digits.yaml").write_text(text.replace("class_path: ImageClass", "class_path: users_own.OwnClass"))
    with_callbacks(tmp_path, callback("users_own.Own"), callback("EarlyStopping", monitor="val/own"))
    assert tiny("fit", "--config", "run.yaml", "--name", "right") == 0
    assert capsys.readouterr().err.count("note: on_train_epoch_end of Own is called once, after the last step") == 1

    with_callbacks(tmp_path, callback("EarlyStopping", monitor="val/onw"))
    assert tiny("fit", "--config", "run.yaml", "--name", "mistyped") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == ("error: EarlyStopping monitors 'val/onw', which is not logged; near it are: val/own, val/loss")
    run = tmp_path / "runs" / "mistyped"
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0


def test_what_callbacks_say_is_shown() -> None:
    quiet_lightning()
    assert logging.getLogger("lightning.pytorch.callbacks.model_summary").isEnabledFor(logging.INFO)
    assert not logging.getLogger("lightning.pytorch.trainer.trainer").isEnabledFor(logging.INFO)

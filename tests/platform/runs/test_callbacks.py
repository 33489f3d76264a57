"""Every callback that Lightning ships works and resumes exactly, or is refused by name."""

from stopped_runs import Crash, CrashAt
import csv
import importlib.util
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch import callbacks as lightnings

from mambarium.errors import InputError
from mambarium.platform.runs.callbacks import EPOCH_HOOKS, RULES, check_callbacks

pytestmark = pytest.mark.thorough

DOCUMENT = Path(__file__).parents[3] / "docs" / "callbacks.md"


class OwnAverage(lightnings.WeightAveraging):
    """Averages every third step."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx % 3 == 0


class AverageOfEpochs(lightnings.WeightAveraging):
    """As Lightning's documentation shows it."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None and epoch_idx >= 10


class Prunes(lightnings.ModelPruning):
    """A user's own."""


def batch_size(batch: Any) -> int:
    return len(batch[1])


REFUSED: dict[type[Callback], Callable[[], Callback]] = {
    lightnings.BackboneFinetuning: lambda: lightnings.BackboneFinetuning(1),
    lightnings.BaseFinetuning: lightnings.BaseFinetuning,
    lightnings.BatchSizeFinder: lightnings.BatchSizeFinder,
    lightnings.Checkpoint: lightnings.Checkpoint,
    lightnings.GradientAccumulationScheduler: lambda: lightnings.GradientAccumulationScheduler({1: 4}),
    lightnings.LearningRateFinder: lightnings.LearningRateFinder,
    lightnings.ModelCheckpoint: lightnings.ModelCheckpoint,
    lightnings.ModelPruning: lambda: Prunes("l1_unstructured"),
    lightnings.OnExceptionCheckpoint: lambda: lightnings.OnExceptionCheckpoint("."),
    lightnings.SpikeDetection: lightnings.SpikeDetection,
    lightnings.StochasticWeightAveraging: lambda: lightnings.StochasticWeightAveraging(0.1),
}
SETTINGS: list[tuple[Callable[[], Callback], str]] = [
    (lambda: lightnings.EarlyStopping("val/loss", check_on_train_epoch_end=True), "leave check_on_train_epoch_end out"),
    (lambda: lightnings.LearningRateMonitor("epoch"), "set logging_interval to step"),
    (lambda: lightnings.Timer(interval="epoch"), "leave interval out"),
    (lambda: lightnings.EMAWeightAveraging(update_starting_at_epoch=1), "use EMAWeightAveraging's update_starting_at_"),
    (AverageOfEpochs, "or step_idx in should_update"),
]
WORKING: dict[str, Callable[[], Callback]] = {
    "EMAWeightAveraging": lambda: lightnings.EMAWeightAveraging(decay=0.8, update_starting_at_step=6),
    "WeightAveraging": lightnings.WeightAveraging,
    "Callback": OwnAverage,
    "EarlyStopping": lambda: lightnings.EarlyStopping("val/loss", patience=1, min_delta=0.05),
    "LearningRateMonitor": lambda: lightnings.LearningRateMonitor("step", log_momentum=True, log_weight_decay=True),
    "LambdaCallback": lambda: lightnings.LambdaCallback(on_train_batch_end=lambda *arguments: None),
    "ModelSummary": lightnings.ModelSummary,
    "RichModelSummary": lightnings.RichModelSummary,
    "BasePredictionWriter": lightnings.BasePredictionWriter,
}
MEASURING: dict[str, Callable[[], Callback]] = {
    "Timer": lambda: lightnings.Timer(timedelta(hours=1)),
    "ThroughputMonitor": lambda: lightnings.ThroughputMonitor(batch_size, window_size=3),
    "DeviceStatsMonitor": lambda: lightnings.DeviceStatsMonitor(cpu_stats=None if has_psutil() else False),
}
"""Callbacks that log or keep what differs from run to run."""
BARS = {"ProgressBar", "RichProgressBar", "TQDMProgressBar"}
"""Those are tested on the command line, where ours gives way to them."""


def has_psutil() -> bool:
    return importlib.util.find_spec("psutil") is not None


def crash_and_go_on(toy: Any, folder: Path, options: Any, callback: Callable[[], Callback]) -> None:
    """A run with three crashes: in the midst of steps and of a validation."""
    for hook, call in (("on_train_batch_end", 5), ("on_before_optimizer_step", 3), ("on_validation_batch_start", 2)):
        try:
            toy.fit(folder, options, callback(), CrashAt(hook, call))
        except Crash:
            continue
    toy.fit(folder, options, callback())


def test_every_callback_of_lightning_has_its_rule_and_its_test() -> None:
    names = {kind.__name__ for kind in RULES}
    assert names == set(lightnings.__all__)
    assert set(REFUSED) == {kind for kind, rule in RULES.items() if not rule.does}
    assert {*WORKING, *MEASURING, *BARS, *(kind.__name__ for kind in REFUSED)} == names


def test_the_documentation_has_the_rules() -> None:
    rows = [
        f"| `{kind.__name__}` | {rule.does or 'refused'} | {rule.fault or ''} |"
        for kind, rule in sorted(RULES.items(), key=lambda item: item[0].__name__)
    ]
    found = re.findall(r"^\| `.*\|$", DOCUMENT.read_text(), re.MULTILINE)
    assert found == [re.sub(" +", " ", row) for row in rows]


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_refused_callbacks(kind: type[Callback]) -> None:
    callback = REFUSED[kind]()
    with pytest.raises(InputError, match=f"^trainer.callbacks: {type(callback).__name__} ") as caught:
        check_callbacks([Callback(), callback])
    assert RULES[kind].fault in str(caught.value)


@pytest.mark.parametrize(("callback", "words"), SETTINGS)
def test_refused_settings(callback: Callable[[], Callback], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_callbacks([callback()])


def test_device_stats_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mambarium.platform.runs.callbacks.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install psutil"):
        check_callbacks([lightnings.DeviceStatsMonitor()])
    check_callbacks([lightnings.DeviceStatsMonitor(cpu_stats=False)])


def test_refused_ones_that_a_model_brings_along(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Toy, "configure_callbacks", lambda self: [lightnings.StochasticWeightAveraging(0.1)])
    with pytest.raises(InputError, match="StochasticWeightAveraging averages after epochs"):
        toy.fit(tmp_path, toy.Options())


@pytest.mark.parametrize("name", WORKING)
def test_working_callbacks_resume_exactly(toy: Any, tmp_path: Path, differences: Any, name: str) -> None:
    options = toy.Options(every_steps=3, val_check_interval=4, total_batches=21)
    toy.fit(tmp_path / "straight", options, WORKING[name]())
    crash_and_go_on(toy, tmp_path / "chain", options, WORKING[name])
    assert differences(tmp_path / "straight", tmp_path / "chain") == []


@pytest.mark.parametrize("name", MEASURING)
def test_measuring_callbacks_change_no_weights(toy: Any, tmp_path: Path, differences: Any, name: str) -> None:
    options = toy.Options(every_steps=3, val_check_interval=4)
    toy.fit(tmp_path / "straight", options)
    crash_and_go_on(toy, tmp_path / "chain", options, MEASURING[name])
    found = differences(tmp_path / "straight", tmp_path / "chain")
    allowed = (f": callbacks.{name}", "RunCheckpoint.log.rows", "metrics.csv: ")  # its state, and what it logs
    assert [difference for difference in found if not any(part in difference for part in allowed)] == []


def rows(folder: Path, column: str) -> dict[int, float]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_average_that_has_not_begun_is_the_current_weights(toy: Any, tmp_path: Path, accumulate: int) -> None:
    options = toy.Options(val_check_interval=3, total_batches=24, accumulate=accumulate)
    _, plain = toy.fit(tmp_path / "plain", options)
    late, never = (lightnings.EMAWeightAveraging(decay=0.5, update_starting_at_step=start) for start in (8, 1000))
    toy.fit(tmp_path / "late", options, late)
    _, averaged = toy.fit(tmp_path / "never", options, never)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, averaged.state_dict()[name]), name
    expected, found = rows(tmp_path / "plain", "val/loss"), rows(tmp_path / "late", "val/loss")
    assert rows(tmp_path / "never", "val/loss") == expected
    assert list(found) == list(expected) and len(found) > 3
    for step, loss in found.items():
        assert (loss == expected[step]) == (step <= 8), step  # after its first update the average is what it was given
    stored = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("plain", "never")]
    for name, tensor in stored[0]["state_dict"].items():
        assert torch.equal(tensor, stored[1]["state_dict"][name]), name


def test_a_timer_ends_the_run_with_a_validation(toy: Any, tmp_path: Path) -> None:
    options = toy.Options(total_batches=400, val_check_interval=400, seconds_per_batch=0.02)
    trainer, _ = toy.fit(tmp_path, options, lightnings.Timer(timedelta(milliseconds=200)))
    steps = trainer.global_step
    assert 0 < steps < 400
    assert list(rows(tmp_path, "val/loss")) == [steps - 1]
    trainer, _ = toy.fit(tmp_path, options, lightnings.Timer(timedelta(milliseconds=200)))
    assert trainer.global_step == steps


def test_hooks_of_the_epoch_are_noted(toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Own(Callback):
        def on_train_epoch_end(self, *arguments: Any) -> None:
            pass

    every_hook = lightnings.LambdaCallback(**{hook: lambda *arguments: None for hook in EPOCH_HOOKS})
    toy.fit(tmp_path, toy.Options(total_batches=1), Own(), every_hook, lightnings.EarlyStopping("val/loss"))
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [note.split(" is called")[0] for note in notes] == [
        "note: on_train_epoch_end of Own",
        "note: on_train_epoch_start of LambdaCallback",
        "note: on_train_epoch_end of LambdaCallback",
    ]


@pytest.mark.parametrize("name", ["val/acuracy", "val/los", "val_loss", "accuracy", "test/loss"])
def test_what_is_never_logged_is_refused_before_the_start(name: str) -> None:
    with pytest.raises(InputError, match=f"EarlyStopping monitors '{name}', which is not logged; near it are: .*val/"):
        check_callbacks([lightnings.EarlyStopping(name)], ["val/accuracy", "val/loss"])


@pytest.mark.parametrize("name", ["val/loss", "train/loss", "train/balance", "lr-AdamW"])
def test_what_may_be_logged_passes(name: str) -> None:
    check_callbacks([lightnings.EarlyStopping(name)], ["val/accuracy", "val/loss"])
    check_callbacks([lightnings.EarlyStopping("val/own"), OwnAverage()], ["val/accuracy", "val/loss"])


def test_unknown_names_are_refused_at_the_first_validation(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"monitors 'val/acuracy', which is not logged; near it are: val/accuracy"):
        toy.fit(tmp_path, toy.Options(), lightnings.EarlyStopping("val/acuracy"))
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 4
    toy.fit(tmp_path / "strict", toy.Options(), lightnings.EarlyStopping("val/acuracy", strict=False))


def test_a_scheduler_that_watches_what_is_not_logged(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = toy.Toy.configure_optimizers

    def mistyped(module: Any) -> Any:
        configured = original(module)
        configured["lr_scheduler"]["monitor"] = "val/lss"
        return configured

    monkeypatch.setattr(toy.Toy, "configure_optimizers", mistyped)
    with pytest.raises(InputError, match=r"ReduceLROnPlateau monitors 'val/lss', .*val/loss"):
        toy.fit(tmp_path, toy.Options(plateau=True))


def test_a_monitor_in_a_run_without_validation(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Data, "val_dataloader", lambda self: [])
    with pytest.raises(InputError, match="EarlyStopping monitors 'val/loss' at each validation, but this run has none"):
        toy.fit(tmp_path, toy.Options(), lightnings.EarlyStopping("val/loss"))

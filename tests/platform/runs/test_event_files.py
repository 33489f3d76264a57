"""TensorBoard's event files: counted and cut after any event."""

import os
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from mambarium.errors import InputError
from mambarium.platform.position import Position
from mambarium.platform.runs.event_files import PREFIX, cut_events, event_ends, event_files
from mambarium.platform.runs.tensorboard import RunTensorBoard


def write(folder: Path, first: int, last: int) -> None:
    """One file with a curve, a picture and a text per step."""
    writer = SummaryWriter(folder)
    for step in range(first, last):
        writer.add_scalar("loss", step / 3, step)
        writer.add_image("picture", torch.full((3, 4, 4), step, dtype=torch.uint8), step)
        writer.add_text("sample", f"step {step}", step)
    writer.close()


def counts(folder: Path) -> dict[str, int]:
    return {name: sum(1 for path in paths for _ in event_ends(path)) for name, paths in event_files(folder).items()}


@pytest.mark.parametrize("kept", [0, 1, 5, 6, 7, 11, 12])
def test_exactly_the_first_events_are_kept(tmp_path, monkeypatch, differences, kept):
    write(tmp_path / "tensorboard", 0, 4)
    everything = differences.events(tmp_path)["."]
    assert len(everything) == 12
    for path in event_files(tmp_path / "tensorboard")["."]:
        path.unlink()
    write(tmp_path / "tensorboard", 0, 2)
    later = time.time() + 1  # names of one second go by a counter, 10 before 9
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: later)
        write(tmp_path / "tensorboard", 2, 4)
    files = event_files(tmp_path / "tensorboard")["."]
    assert len(files) == 2
    with files[-1].open("ab") as file:
        file.write(b"\x10\0\0\0\0\0\0\0torn")
    cut_events(files, kept)
    assert differences.events(tmp_path).get(".", []) == everything[:kept]


def test_what_is_kept_comes_first_after_the_clock_has_gone_back(tmp_path, monkeypatch, differences):
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 4e9)
        write(tmp_path / "tensorboard", 0, 2)
    cut_events(event_files(tmp_path / "tensorboard")["."], 5)
    write(tmp_path / "tensorboard", 2, 3)
    first, second = event_files(tmp_path / "tensorboard")["."]
    assert first.name.startswith(f"{PREFIX}0000000000.")
    assert [sum(1 for _ in event_ends(path)) for path in (first, second)] == [5, 3]


def board(folder: Path) -> RunTensorBoard:
    position = Position(0)
    position.batches_per_pass = 4
    return RunTensorBoard(folder, position)


def test_a_run_goes_on_where_its_checkpoint_counted(tmp_path):
    first = board(tmp_path)
    first.begin(None)
    first.experiment.add_text("configuration", "width: 8")
    first.log_metrics({"loss": 1.0}, 0)
    first.experiment.add_scalars("of_task", {"one": 1.0, "other": 2.0}, 0)
    first.force_to_disk()
    counted = dict(first.events)
    assert counted == counts(tmp_path) and {".", "of_task_one", "of_task_other"} == set(counted)
    first.log_metrics({"loss": 0.9}, 1)
    first.experiment.close()

    second = board(tmp_path)
    second.experiment.add_text("configuration", "width: 8")  # as a callback does at every start
    second.begin(counted)
    assert counts(tmp_path) == counted
    second.log_metrics({"loss": 0.9}, 1)
    second.force_to_disk()
    assert second.events == {**counted, ".": counted["."] + 2} == counts(tmp_path)
    second.log_metrics({"loss": 0.8}, 2)
    second.force_to_disk()
    assert second.events["."] == counted["."] + 4, "what was counted before is not counted again"
    second.experiment.close()


def test_a_fresh_start_drops_what_a_run_without_checkpoint_left(tmp_path):
    write(tmp_path, 0, 3)
    fresh = board(tmp_path)
    fresh.experiment.add_text("configuration", "width: 8")
    fresh.begin(None)
    fresh.force_to_disk()
    assert fresh.events == counts(tmp_path) == {".": 1}
    fresh.experiment.close()


def test_missing_events_are_refused_and_the_rest_is_left(tmp_path):
    write(tmp_path, 0, 3)
    (path,) = event_files(tmp_path)["."]
    os.truncate(path, path.stat().st_size - 1)
    size = path.stat().st_size
    with pytest.raises(InputError, match="holds 8 of the 9 events"):
        board(tmp_path).begin({".": 9})
    assert path.stat().st_size == size


def test_a_figure_that_does_not_exist_has_no_point(tmp_path):
    logger = board(tmp_path)
    logger.begin(None)
    logger.log_metrics({"val/AP": 0.5, "val/AP_class/boat": float("nan"), "val/AP_class/crane": float("inf")}, 0)
    logger.experiment.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["val/AP", "val/AP_class/crane", "pass"]

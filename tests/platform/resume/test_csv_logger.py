"""metrics.csv: rows, new columns, cuts."""

import pytest

from mambarium.errors import InputError
from mambarium.platform.resume.csv_logger import MetricsFile
from mambarium.platform.resume.position import Position


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.csv"


def open_file(path, rows=0, seconds=0.0) -> MetricsFile:
    position = Position(0)
    position.batches_per_pass, position.finished_batches = 4, 6
    file = MetricsFile(path, position)
    file.begin(rows, seconds)
    return file


def lines(path) -> list[str]:
    """The rows without the seconds."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    return [",".join(row[:2] + row[3:]) for row in rows]


def test_rows_are_on_disk_at_once_and_columns_grow(path):
    file = open_file(path)
    file.log_metrics({"train/loss": 0.1, "epoch": 0}, step=0)
    assert lines(path) == ["step,pass,train/loss", "0,1.5,0.1"]
    file.log_metrics({"val/b": 2, "val/a": float("nan")}, step=0)
    file.log_metrics({"train/loss": 1 / 3}, step=1)
    assert lines(path) == [
        "step,pass,train/loss,val/a,val/b",
        "0,1.5,0.1,,",
        "0,1.5,,nan,2.0",
        "1,1.5,0.3333333333333333,,",
    ]
    assert file.rows == 3


def test_cut_takes_rows_and_columns_that_came_later(path):
    file = open_file(path)
    file.log_metrics({"train/loss": 1.0}, step=0)
    before = lines(path)
    file.log_metrics({"val/a": 2.0}, step=0)
    file.log_metrics({"train/loss": 3.0}, step=1)
    with path.open("a") as raw:
        raw.write("2,1.")  # cut off by a crash
    file = open_file(path, rows=1, seconds=100.0)
    assert lines(path) == before and file.rows == 1
    file.log_metrics({"train/loss": 3.0}, step=1)
    assert float(path.read_text().splitlines()[-1].split(",")[2]) >= 100.0


def test_fresh_start_drops_an_old_file(path):
    open_file(path).log_metrics({"x": 1.0}, step=0)
    file = open_file(path)
    file.log_metrics({"y": 1.0}, step=0)
    assert lines(path) == ["step,pass,y", "0,1.5,1.0"]


@pytest.mark.parametrize("left", [None, b"step,pass,seconds,x\n0,1.5,0.0,1.0\n1,1.5", b"\xff\x00\n" * 9])
def test_a_file_that_lacks_rows_of_the_checkpoint_is_refused_and_left(path, left):
    open_file(path).log_metrics({"x": 1.0}, step=0)
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(InputError, match=r"metrics\.csv holds [01] of the 3 rows"):
        open_file(path, rows=3)
    assert left is None or path.read_bytes() == left

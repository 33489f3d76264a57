"""How a command's end becomes an exit code and a line."""

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import jsonargparse
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from mambarium.errors import InputError
from mambarium.platform.cli import boundary
from mambarium.platform.cli.boundary import brief_about_threads, run_to_exit_code
from mambarium.platform.data.core.samples import SampleError

pytestmark = pytest.mark.thorough


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


class Failing(Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


def in_a_worker(error: Exception) -> Callable[[], int]:
    def run() -> int:
        for _ in DataLoader(Failing(error), num_workers=1):
            pass
        return 0

    return run


def nested_json() -> int:
    import json

    return int(json.loads("[" * 100_000))


def scheduler_of_nothing() -> int:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(torch.optim.SGD, "optimizer", skip={"params"})
    parser.add_subclass_arguments(EarlyStopping, "callback")
    options = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "mode": "best"}}
    return int(parser.instantiate(parser.parse_object({"callback": options})).callback.patience)


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (raising(InputError("x.yaml: no such file")), "error: x.yaml: no such file"),
        (raising(OSError(28, "No space left on device", "a.ckpt")), "error: fit: a.ckpt: No space left on device"),
        (raising(ConnectionError("no route")), "error: fit: no route"),
        (raising(MemoryError()), "error: fit: out of memory (MemoryError); lower data.batch_size"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), "error: fit: out of memory (CUDA out of memory)"),
        (lambda: torch.empty(2**50).numel(), "error: fit: out of memory (4,194,304.0 GiB more asked for)"),
        (raising(ModuleNotFoundError("No module named 'wandb'", name="wandb")), "error: fit: No module named 'wandb'"),
        (lambda: int(float(10**400)), "error: fit: a number is out of range (int too large"),
        (raising(MisconfigurationException("No CUDA GPUs\nare available")), "error: fit: No CUDA GPUs are available"),
        (nested_json, "error: fit: a file holds mappings or lists inside each other, deeper than can be read"),
        (scheduler_of_nothing, "error: fit: EarlyStopping: `mode` can be min, max, got best"),
        (in_a_worker(InputError("row 3: no text")), "error: row 3: no text"),
        (in_a_worker(SampleError("a.png: truncated: by 3")), "error: a.png: truncated: by 3"),
        (in_a_worker(OSError("a.png: gone")), "error: fit: a.png: gone"),
    ],
)
def test_what_a_user_can_mend_ends_with_2(
    capsys: pytest.CaptureFixture[str], run: Callable[[], int], line: str
) -> None:
    assert run_to_exit_code("fit", run, debug=False) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith(line) and "\n" not in printed
    assert "Unexpected" not in printed and "unexpected" not in printed


def test_a_panic_of_rust_code_is_no_exception(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class PanicException(BaseException):
        """As pyo3 has it."""

    assert run_to_exit_code("fit", raising(PanicException("no entry found for key")), debug=False) == 2
    assert "gave up (no entry found for key): a file that it reads is damaged" in capsys.readouterr().err


def module_at(path: Path, name: str) -> types.ModuleType:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("def divide():\n    return 1 // 0\n")
    module = types.ModuleType(name)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def test_a_fault_of_ours_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "PACKAGE", tmp_path / "mambarium")
    ours = module_at(tmp_path / "mambarium" / "tasks" / "loss.py", "mambarium.tasks.loss")
    expected = (
        "error: fit: unexpected ZeroDivisionError: integer division or modulo by zero (mambarium/tasks/loss.py:2); "
        "run again with --debug for the traceback and report it\n"
    )
    assert run_to_exit_code("fit", ours.divide, debug=False) == 1
    assert capsys.readouterr().err == expected

    # In the constructor of a class that jsonargparse makes, which wraps errors into its own.
    exec("class Layer:\n    def __init__(self):\n        divide()\n", ours.__dict__)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ours.Layer, "layer")
    assert run_to_exit_code("fit", lambda: parser.instantiate(parser.parse_args([])), debug=False) == 1
    assert capsys.readouterr().err == expected

    assert run_to_exit_code("fit", ours.divide, debug=True) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed and "in divide" in printed and printed.endswith(expected)


def test_a_fault_of_the_user_s_own_code_is_not_to_be_reported_to_us(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = module_at(tmp_path / "mine.py", "mine")
    assert run_to_exit_code("fit", mine.divide, debug=False) == 1
    assert capsys.readouterr().err == (
        f"error: fit: ZeroDivisionError: integer division or modulo by zero ({tmp_path}/mine.py:2); run again with "
        "--debug for the traceback\n"
    )


def test_ways_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    def turned_into_an_exit() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    for run in (raising(KeyboardInterrupt()), turned_into_an_exit):
        assert run_to_exit_code("fit", run, debug=False) == 130
        assert capsys.readouterr().err == "stopped\n"
    with pytest.raises(SystemExit) as exit:
        run_to_exit_code("fit", raising(SystemExit(0)), debug=False)
    assert exit.value.code == 0


def test_output_that_nobody_reads() -> None:
    program = (
        "import sys\n"
        "from mambarium.platform.cli.boundary import run_to_exit_code\n"
        "def run():\n"
        "    for line in range(100_000):\n"
        "        print(line)\n"
        "    return 0\n"
        "sys.exit(run_to_exit_code('list', run, False))\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert writer.stdout is not None and writer.stderr is not None
    assert writer.stdout.readline() == b"0\n"
    writer.stdout.close()
    assert writer.wait(60) == 141
    assert writer.stderr.read() == b""


def test_errors_of_threads_and_finalizers_are_brief(capsys: pytest.CaptureFixture[str]) -> None:
    program = (
        "import threading\n"
        "from mambarium.platform.cli.boundary import brief_about_threads\n"
        "def write():\n"
        "    raise OSError(28, 'No space left on device', 'events')\n"
        "class Loader:\n"
        "    def __del__(self):\n"
        "        raise OSError(5, 'Input/output error', 'b')\n"
        "with brief_about_threads(False):\n"
        "    thread = threading.Thread(target=write)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    loader = Loader()\n"
        "    del loader\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert ended.stderr.splitlines() == [
        "error: beside the command: events: No space left on device",
        "error: beside the command: b: Input/output error",
    ]
    before = sys.unraisablehook
    with brief_about_threads(debug=True):
        assert sys.unraisablehook is before

"""Small runs of the command line in processes that can be killed, forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

_VISION = "{class_path: MambaOut, init_args: {depths: [1, 1], widths: [8, 12], kernel_size: 3, drop_path: 0.2}}"
_LANGUAGE = "{class_path: Mamba, init_args: {width: 16, depth: 2, d_state: 4, dropout: 0.1}}"
_SCENES = "--data.image_size 48 --data.num_scenes 64 --data.batch_size 4 --trainer.max_steps 16"
_SCENES += " --trainer.val_check_interval 5 --trainer.limit_val_batches 2"
RUNS = {
    "digits": (
        "classification/digits_mambaout.yaml --data.batch_size 16 --trainer.max_steps 24 --data.num_workers 2 "
        "--trainer.val_check_interval 6 --trainer.limit_val_batches 1",
        _VISION,
    ),
    "text": (
        "language_modeling/pydoc_mamba.yaml --data.batch_size 4 --data.length 64 --data.eval_length 512 "
        "--trainer.max_steps 30 --trainer.val_check_interval 9 --trainer.limit_val_batches 1 "
        "--trainer.accumulate_grad_batches 2",
        _LANGUAGE,
    ),
    "segmentation": (f"segmentation/scenes_fpn.yaml {_SCENES}", _VISION),
    "detection": (f"detection/scenes_fcos.yaml {_SCENES}", _VISION),
}
"""Runs of seconds by name: a shipped configuration, what makes it small, and a backbone. All log pictures or texts."""

IMPORTED = (
    "mambarium.platform.cli.training",
    "numba",
    "pycocotools",
    "sklearn.datasets",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
)


def fit_options(run: str, threads: int = 1) -> list[str]:
    """Return the command line of one of the runs, and this process prepared to fork it.

    Args:
        run: A name in `RUNS`.
        threads: Threads of each process.
    """
    import_all()
    import torch

    torch.set_num_threads(threads)
    options, backbone = RUNS[run]
    config, *smaller = options.split()
    common = "--data.passes null --trainer.log_every_n_steps 2 --trainer.accelerator cpu --name run"
    return ["fit", "--config", str(CONFIGS / config), "--model.backbone", backbone, *smaller, *common.split()]


def import_all() -> None:
    """Import what commands need, so that processes forked from this one need not."""
    sys.path.insert(0, str(ROOT))
    for module in IMPORTED:
        importlib.import_module(module)


class Process:
    """A command in a process of its own, which leads a process group.

    Args:
        options: The command and its options.
        folder: Where it runs; its run folder is `runs/run` there.
        prepare: Called in the new process before the command.
    """

    def __init__(self, options: list[str], folder: Path, prepare: Callable[[], None] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log.txt"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_command(options, folder, prepare)

    def _be_command(self, options: list[str], folder: Path, prepare: Callable[[], None] | None) -> None:
        from mambarium.platform.cli import main

        code = 1
        try:
            os.setpgid(0, 0)
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(descriptor, target)
            os.chdir(folder)
            if prepare is not None:
                prepare()
            code = main(options)
        except SystemExit as end:  # after --help or --print_config
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended_within(self, seconds: float) -> int | None:
        """Wait for the end.

        Args:
            seconds: So long at most.

        Returns:
            The exit code, negative after a signal; None if it is still running.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return None

    def kill(self) -> None:
        """Kill the whole group with SIGKILL and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def output(self) -> str:
        """Return what it has printed."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")


def finish(
    options: list[str], folder: Path, prepare: Callable[[], None] | None = None, patience: float = 600
) -> tuple[int, str]:
    """Run a command to its end.

    Args:
        options: The command and its options.
        folder: Where it runs.
        prepare: Called in the new process before the command.
        patience: Seconds after which it is killed.

    Returns:
        Its exit code, -9 if it took too long, and what it printed.
    """
    process = Process(options, folder, prepare)
    code = process.ended_within(patience)
    if code is None:
        process.kill()
        code = -signal.SIGKILL
    return code, process.output()


def undisturbed(options: list[str], folder: Path) -> Path:
    """Run a command that nothing happens to, and return its run folder."""
    code, output = finish(options, folder)
    if code != 0:
        sys.exit(f"the undisturbed run failed with exit code {code}:\n{output}")
    return folder / "runs" / "run"


def after_batch(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Return what prepares a process to do something after a training batch.

    Args:
        number: The batch, from 1.
        action: What it does.
    """

    def prepare() -> None:
        from mambarium.platform.position import Position

        plain = Position.on_train_batch_end

        def on_train_batch_end(self: Position, *arguments: object) -> None:
            plain(self, *arguments)  # type: ignore[arg-type]
            if self.finished_batches == number:
                action()

        Position.on_train_batch_end = on_train_batch_end  # type: ignore[assignment, method-assign]

    return prepare


def kill_own_group() -> None:
    """End this process and its loaders' workers as `kill -9` does."""
    os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    """Return the folder that is given, or a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)

"""Processes that end with the one that started them, and the locks that keep two of them off one folder.

The rule: whoever works in a comparison's folder holds an exclusive `flock` on its file `lock`. The commands
of the cells inherit it, so it is free only when the comparison *and* its last command are gone. The comparison
alone holds a second one, on `comparison.lock`. If it dies without a word (kill -9), Linux sends its command a
SIGTERM, upon which `fit` writes its checkpoint and ends; a new comparison, which gets the second lock at once,
waits for that. On other systems the command goes on, and a new comparison refuses to start until it has ended.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from filelock import FileLock, Timeout

from mambarium.errors import InputError
from mambarium.platform.compare import bound_process as bound
from mambarium.platform.worker_signals import STOPPING

STOP_SIGNALS = tuple(signal.Signals[name] for name in STOPPING if name in signal.Signals.__members__)
"""What terminals and schedulers send to stop a run."""


class FolderLock:
    """The right to work in a comparison's folder.

    The descriptor is the open file that holds the lock; a child that inherits it holds the lock as well.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    @contextmanager
    def hold(cls, folder: Path, patience: float, say: Callable[[str], None]) -> Iterator["FolderLock"]:
        """Hold the lock of a folder, which must exist.

        Args:
            folder: The comparison's folder.
            patience: Seconds to wait for the last command of a comparison that was killed.
            say: Called with a line if there is something to wait for.

        Raises:
            InputError: Another comparison works there, or a killed one's command doesn't end.
        """
        comparison = FileLock(folder / "comparison.lock")
        try:
            comparison.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{folder}: another comparison works there ({_holder(folder)}); wait for it, or give this one "
                "another name"
            ) from None
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _acquire(descriptor, folder, patience, say)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode(), 0)
            yield cls(descriptor)
        finally:
            os.close(descriptor)
            comparison.release()


def in_use(folder: Path) -> bool:
    """Tell whether a comparison, or a command left over from one, works in a folder."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


class SignalRelay:
    """Passes the first stop signal on to the running child, and remembers it.

    Schedulers repeat theirs, while a run's second signal ends it at once: further ones are not passed on, but for a
    second Ctrl-C.

    Attributes:
        received: The first signal, None if there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._interrupts = 0
        self._child: subprocess.Popen[bytes] | None = None

    @contextmanager
    def active(self) -> Iterator["SignalRelay"]:
        """Take the signals over, in the main thread, and give them back afterwards."""
        old = {number: signal.signal(number, self._pass_on) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def to(self, child: "subprocess.Popen[bytes]") -> Iterator[None]:
        """Send signals to a child, one that came while it started included."""
        self._child = child
        if self.received is not None:
            child.send_signal(self.received)
        try:
            yield
        finally:
            self._child = None

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        is_first = self.received is None
        self.received = self.received or signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        if self._child is not None and (is_first or (number == signal.SIGINT and self._interrupts > 1)):
            self._child.send_signal(number)


def start_child(
    command: Sequence[str], log: IO[bytes], lock: FolderLock, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a command that ends with this process, prints into a log and holds the folder's lock.

    It gets a process group of its own: Ctrl-C in a terminal reaches this process alone, which passes it on
    once.
    """
    return subprocess.Popen(
        [sys.executable, "-I", bound.__file__, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        pass_fds=(lock.descriptor,),
        process_group=0,
    )


def _acquire(descriptor: int, folder: Path, patience: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + patience
    said = False
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise InputError(
                f"{folder}: a command of a killed comparison still runs there; end it "
                f"(`fuser {folder / 'lock'}` shows it) and start again"
            )
        if not said:
            say("waiting for the command of a killed comparison to write its checkpoint")
            said = True
        time.sleep(0.1)


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError as error:
        raise InputError("compare needs Linux, macOS or another POSIX system (file locks and signals)") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(folder: Path) -> str:
    """Return who works in a folder, as far as they have said so yet."""
    try:
        holder = json.loads((folder / "lock").read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "it has just started"

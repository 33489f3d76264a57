"""The processes of one run on one machine: none waits for another that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer

from mambarium.platform.cli.boundary import is_lost_connection
from mambarium.private_names.lightning import processes_unwatched, starts_processes_by_command

FIRST_PROCESS = "MAMBARIUM_FIRST_PROCESS"
"""Environment variable by which the first process tells those that it starts its number."""

SECONDS_BETWEEN_LOOKS = 0.3
SECONDS_TO_END = 3.0
"""So long a process has to notice by itself that another is gone, and to end."""

GOES_ON = "run the same command again; fit goes on from its last checkpoint"


class Companions:
    """The other processes of this run that Lightning's launcher started, or the one that started this one."""

    def __init__(self, trainer: Trainer) -> None:
        self._launcher = trainer.strategy.launcher
        self.rank = int(os.environ.get("LOCAL_RANK", "0"))
        first = os.environ.get(FIRST_PROCESS)
        self._first = int(first) if self.rank and first else None

    @property
    def are_ours(self) -> bool:
        """Whether there are any to look after; those that a cluster's launcher started are that launcher's."""
        return self._first is not None or starts_processes_by_command(self._launcher)

    @property
    def started(self) -> list[subprocess.Popen]:
        """The processes that this one started, by rank from 1."""
        return getattr(self._launcher, "procs", [])

    def gone(self) -> tuple[str, int] | None:
        """Which process has ended before its time, or None: what to say, and the exit code.

        The text is empty if that process has said itself what was wrong.
        """
        if self._first is not None:
            if os.getppid() == self._first:
                return None
            return (f"rank 0 (process {self._first}) has ended: {GOES_ON}" if self.rank == 1 else ""), 2
        for rank, process in enumerate(self.started, start=1):
            code = process.poll()
            if code is not None and code < 0:
                name = signal.Signals(-code).name
                memory = " (out of memory?)" if -code == signal.SIGKILL else ""
                return f"rank {rank} (process {process.pid}) was ended by {name}{memory}: {GOES_ON}", 2
            if code:
                return "", code
        return None

    def wait_for_one_gone(self, seconds: float) -> tuple[str, int] | None:
        """Return what `gone` says as soon as it says something, or None after some seconds."""
        deadline = time.monotonic() + seconds
        while (found := self.gone()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def wait_for_all(self, seconds: float) -> None:
        """Wait until the processes that this one started have ended, some seconds at most."""
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in self.started) and time.monotonic() < deadline:
            time.sleep(0.05)

    def end(self) -> None:
        """End the processes that this one started: without it they would wait for it."""
        for process in self.started:
            process.kill()  # a collective operation lets no milder signal through
            process.wait()


@contextmanager
def ending_together(trainer: Trainer, when_one_is_gone: Callable[[], None]) -> Iterator[None]:
    """Let all processes of a run end, within seconds, when one of them does before its time.

    A process whose companion is gone gets an error from the connection to it, or waits forever, depending on the
    backend. Either way it ends here, with a line that names the rank if no other process has printed one.

    Called where one is gone, in the processes that are left, `when_one_is_gone` runs in a thread of its own if the main
    one is stuck. The Trainer's processes start and end inside the block.

    Raises:
        ConnectionError: If another process is gone and has not said why.
        SystemExit: If it has said why.
    """
    companions = Companions(trainer)
    if not companions.are_ours:
        yield
        return
    if companions.rank == 0:
        os.environ[FIRST_PROCESS] = str(os.getpid())
    left = threading.Event()

    def watch() -> None:
        while not left.wait(SECONDS_BETWEEN_LOOKS):
            if (found := companions.gone()) and not left.wait(SECONDS_TO_END):
                try:
                    when_one_is_gone()
                    companions.end()
                    if found[0]:
                        print(f"error: {found[0]}", file=sys.stderr, flush=True)
                finally:
                    os._exit(found[1])  # the main thread hangs in a collective operation

    threading.Thread(target=watch, name="companions", daemon=True).start()
    cause: BaseException | None = None
    try:
        try:
            with processes_unwatched():
                yield
        except BaseException as error:
            left.set()
            cause = error
            is_lost = is_lost_connection(error)
            # Where several processes fail, the first one speaks: it ends the others while they wait.
            found = companions.wait_for_one_gone(SECONDS_TO_END if is_lost else companions.rank and SECONDS_TO_END / 2)
            if found is None or not (is_lost or companions.rank):
                raise
        else:
            left.set()
            companions.wait_for_all(SECONDS_TO_END)
            found = None if companions.rank else companions.gone()
        if found is not None:
            when_one_is_gone()
            raise (ConnectionError(found[0]) if found[0] else SystemExit(found[1])) from cause
    finally:
        companions.end()

"""Runs cells one after another: `fit`, then `test`, each in a process of its own."""

import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mambarium
from mambarium.errors import InputError
from mambarium.platform.compare.cell_process import STOP_SIGNALS, FolderLock, SignalRelay, start_child
from mambarium.platform.compare.cell_records import (
    CellFiles,
    CellRecord,
    Status,
    load_record,
    read_outcome,
    save_record,
)
from mambarium.platform.compare.matrix import Cell
from mambarium.platform.compare.status import Progress
from mambarium.platform.runs.run_folder import now

# The command line with which a cell's commands are given to this Python.
PROGRAM = (sys.executable, "-m", "mambarium")

# What `fit` ends with after it has written its checkpoint upon a signal, or by the bare signal.
_INTERRUPTED = {128 + number for number in STOP_SIGNALS} | {-number for number in STOP_SIGNALS}


@dataclass(frozen=True)
class Runner:
    """Brings cells forward, and notes after each command, which the program's command line begins, how far they are."""

    folder: Path
    program: Sequence[str]
    lock: FolderLock
    relay: SignalRelay
    progress: Progress

    def run(self, cells: Sequence[Cell], retry_failed: bool, after_each: Callable[[], None]) -> None:
        """Run the cells that aren't finished, none of them stale, until the last one or a signal."""
        for index, cell in enumerate(cells, start=1):
            if self.relay.received is not None:
                return
            before = load_record(cell, self.folder, in_use=False)
            if before.status == "finished":
                self.progress.skip(index, cell, "finished already, skipped")
            elif before.status == "failed" and not retry_failed:
                self.progress.skip(
                    index, cell, f"failed before, skipped ({before.message}); --retry_failed runs it again"
                )
            else:
                self.progress.start(index, cell, resumes=before.status in ("interrupted", "failed"))
                self.progress.end(self._run_cell(cell))
                after_each()

    def _run_cell(self, cell: Cell) -> CellRecord:
        files = CellFiles(self.folder, cell.name)
        save_record(files, _record(cell, "running"))
        record = self._run_commands(cell, files)
        save_record(files, record)
        return record

    def _run_commands(self, cell: Cell, files: CellFiles) -> CellRecord:
        for verb in ("fit", "test"):
            code, last_line = self._run_command(verb, cell, files)
            if self.relay.received is not None:
                return _record(cell, "interrupted", f"{verb} stopped by {self.relay.received.name}")
            if code in _INTERRUPTED:
                return _record(cell, "interrupted", f"{verb} was stopped from outside")
            if code != 0:
                return _record(cell, "failed", f"{verb}: {_explain(code, last_line)}")
        try:
            outcome = read_outcome(files.run_folder)
        except InputError as error:
            return _record(cell, "failed", str(error))
        return CellRecord(cell.definition, "finished", "", platform.node(), now(), outcome)

    def _run_command(self, verb: str, cell: Cell, files: CellFiles) -> tuple[int, str]:
        """Run one command to its end, and return its exit status and its last line of output."""
        command = [*self.program, verb, *cell.options(self.folder)]
        with files.log.open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            start = log.tell()
            child = start_child(command, log, self.lock, _environment())
            try:
                with self.relay.to(child):
                    code = self._wait(child, verb)
            except BaseException:
                child.kill()
                child.wait()
                raise
        return code, _last_line(files.log, start)

    def _wait(self, child: "subprocess.Popen[bytes]", verb: str) -> int:
        told = False
        while True:
            try:
                return child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                self.progress.tick(verb)
            if self.relay.received is not None and not told:
                self.progress.say(f"{self.relay.received.name}: waiting for {verb} to write its checkpoint")
                told = True


def _record(cell: Cell, status: Status, message: str = "") -> CellRecord:
    return CellRecord(cell.definition, status, message, platform.node(), now())


def _environment() -> dict[str, str]:
    """Return the commands' environment: prompt output, and the same package as this process."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    home = Path(mambarium.__file__).resolve().parent.parent
    if home.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    return environment


def _last_line(log: Path, start: int) -> str:
    """Return the last line with anything in it, at or after a position and within the last 64 KiB."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - 65536))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _explain(code: int, last_line: str) -> str:
    if code >= 0:
        return last_line or f"exit code {code} without a word"
    number = signal.Signals(-code)
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"ended by {number.name}{hint}"

#!/usr/bin/env python3
"""Kill a run before every single file operation of one checkpoint, give the same command again, and compare.

    python scripts/faults/kill_in_saves.py --run digits --save 4

Operations are what the process does while it writes the checkpoint: opening a file to write, renaming, linking,
removing, truncating, forcing to the disk, and half of the checkpoint's bytes. Exit code: 0 if every run ended the same
as an undisturbed one, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import RUNS, finish, fit_options, kill_own_group, undisturbed, working_folder
from comparison import differences

AUDITED = ("os.rename", "os.link", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")
HALF_WRITTEN = "half of the checkpoint written"


def main() -> int:
    """Kill at each point, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=RUNS, default="digits", help="which run (default: digits)")
    parser.add_argument("--save", type=int, default=4, help="which checkpoint, from 1 (default: 4)")
    parser.add_argument("--first", type=int, default=1, help="the first operation (default: 1)")
    parser.add_argument("--last", type=int, default=1000, help="the last operation (default: all)")
    parser.add_argument("--out", type=Path, help="where runs lie and stay if they differ (default: a temporary folder)")
    given = parser.parse_args()
    options = fit_options(given.run)
    points = failed = 0
    with working_folder(given.out) as out:
        expected = undisturbed(options, out / "undisturbed")
        for point in [0, *range(given.first, given.last + 1)]:
            folder = out / str(point)
            code, output = finish(options, folder, kill_in_save(given.save, point))
            if code == 0:
                if point == 0:
                    sys.exit(f"the run ended without a checkpoint {given.save}")
                break
            where = HALF_WRITTEN if point == 0 else output.rpartition("KILLED ")[2].strip()
            code, output = finish(options, folder)
            found = [f"exit code {code}: {output[-500:]}"] if code else differences(expected, folder / "runs" / "run")
            points += 1
            failed += bool(found)
            print(f"{point:3} {where}: {'; '.join(found) or 'identical'}", flush=True)
            if not found:
                shutil.rmtree(folder)
    print(f"{points} kills in one checkpoint, {failed} runs not identical")
    return 1 if failed or not points else 0


def kill_in_save(save: int, point: int) -> Callable[[], None]:
    """Return what prepares a process to be killed in a checkpoint.

    Args:
        save: Which checkpoint, from 1.
        point: Before which of its operations, from 1; 0 for the middle of its bytes.
    """

    def prepare() -> None:
        from mambarium.platform.runs.checkpoints import RunCheckpoint

        state = {"saves": 0, "operations": 0}
        saving = False

        def count(what: str) -> None:
            if not saving or point == 0:
                return
            state["operations"] += 1
            if state["operations"] == point:
                os.write(1, f"KILLED before {what}\n".encode())
                kill_own_group()

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if saving and (event in AUDITED or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
                count(f"{event} {' '.join(Path(str(path)).name for path in arguments[:2])}")

        plain_write, plain_fsync = RunCheckpoint._write, os.fsync

        def fsync(descriptor: int) -> None:
            count("fsync")
            plain_fsync(descriptor)

        def write(self: RunCheckpoint, *arguments: Any) -> None:
            nonlocal saving
            state["saves"] += 1
            saving = state["saves"] == save
            if saving and point == 0:
                half = self.last.stat().st_size // 2 if self.last.exists() else 4096
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
            plain_write(self, *arguments)
            count("the next step")
            saving = False

        RunCheckpoint._write = write  # type: ignore[method-assign]
        os.fsync = fsync
        sys.addaudithook(watch)

    return prepare


if __name__ == "__main__":
    sys.exit(main())

"""Runs the toy run in forked processes, so that tests of kills and of several processes import torch only
once.

Reads one order per line as JSON, {"folder", "options", "world_size", "kill": [when, signal number] or
null}, and answers each with the list of exit codes, negative signal numbers for processes that were killed.

A kill comes after so many seconds, or, for "metrics", once the run has added to its metrics.csv: it trains then,
however slow the machine is.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
import toy_run


def child(order: dict, rank: int, port: int) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if order["world_size"] > 1:
        os.environ.update(
            LOCAL_RANK=str(rank),
            NODE_RANK="0",
            WORLD_SIZE=str(order["world_size"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    try:
        return toy_run.main(order["folder"], json.dumps({**order["options"], "devices": order["world_size"]}))
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_for_growth(path: Path, size_before: int, process: int) -> None:
    """Waits until a file grows or the process has ended."""
    ended = False
    while size(path) <= size_before and not ended:
        time.sleep(0.01)
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def execute(order: dict) -> list[int]:
    port = free_port()
    metrics = Path(order["folder"], "metrics.csv")
    size_before = size(metrics)
    processes: list[int] = []
    for rank in range(order["world_size"]):
        if process := os.fork():
            processes.append(process)
            os.setpgid(process, processes[0])
        else:
            os.setpgid(0, processes[0] if processes else 0)
            os._exit(child(order, rank, port))
    if order["kill"] is not None:
        when, signal_number = order["kill"]
        if when == "metrics":
            wait_for_growth(metrics, size_before, processes[0])
        else:
            time.sleep(when)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes[0], signal_number)
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    return [os.waitstatus_to_exitcode(status) for status in statuses]


for line in sys.stdin:
    print(json.dumps(execute(json.loads(line))), flush=True)

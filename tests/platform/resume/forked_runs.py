"""Runs the toy run in forked processes, so that tests of kills and of several processes import torch only
once.

Reads one order per line as JSON, {"folder", "options", "world_size", "kill": [seconds, signal number] or
null}, and answers each with the list of exit codes, negative signal numbers for processes that were killed.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback

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


def execute(order: dict) -> list[int]:
    port = free_port()
    processes: list[int] = []
    for rank in range(order["world_size"]):
        if process := os.fork():
            processes.append(process)
            os.setpgid(process, processes[0])
        else:
            os.setpgid(0, processes[0] if processes else 0)
            os._exit(child(order, rank, port))
    if order["kill"] is not None:
        seconds, signal_number = order["kill"]
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes[0], signal_number)
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    return [os.waitstatus_to_exitcode(status) for status in statuses]


for line in sys.stdin:
    print(json.dumps(execute(json.loads(line))), flush=True)

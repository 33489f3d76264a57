"""The signals that ask a run to stop, and what a data loader's worker does with them."""

import os
import signal
import threading

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Ctrl-C, the ordinary wish to end, a closed terminal, and what schedulers announce the end of a job with (SLURM
whichever `--signal` names, submitit SIGUSR2)."""


def shield_worker(worker_index: int) -> None:
    """Let a data loader's worker live through signals to the whole process group; a `worker_init_fn`.

    Ctrl-C on a terminal and most job schedulers signal every process; the main process needs its workers
    until it has reached the next batch. SIGTERM from the main process itself still ends the worker.
    """
    for number in signals_to_handle():
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent = os.getppid()
    ignored = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ignored)

    def end_with_parent() -> None:
        while True:
            if signal.sigwaitinfo(ignored).si_pid == parent:
                os._exit(0)

    threading.Thread(target=end_with_parent, name="worker-sigterm", daemon=True).start()


def signals_to_handle() -> list[int]:
    """Return the signals in `STOPPING` that this system has, without a SIGHUP that `nohup` lets be ignored."""
    numbers = [int(getattr(signal, name)) for name in STOPPING if hasattr(signal, name)]
    return [n for n in numbers if signal.Signals(n).name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]

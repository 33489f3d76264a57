"""Ctrl-C, a closed terminal and a scheduler's signals as a wish to stop, granted where nothing is lost."""

import os
import signal
import threading
from types import FrameType

from lightning.pytorch import Trainer

from mambarium.platform.worker_signals import signals_to_handle
from mambarium.private_names.lightning import drop_signal_handlers


class Interrupted(Exception):
    """A fit was stopped by a signal in the process of a rank; what it had done up to its last checkpoint is safe."""

    def __init__(self, signal_number: int, rank: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 0 if rank else 128 + signal_number
        """What the process should exit with: 130 after SIGINT, 143 after SIGTERM and so on, as shells have it.
        Processes other than the first exit with 0, because Lightning kills a whole run when one of its
        processes exits otherwise."""


class StopSignals:
    """Notes the signals in `STOPPING`.

    During training a signal sets `received` and nothing else; further ones change nothing, since schedulers repeat
    theirs, but for a second Ctrl-C. That, and any signal before training begins, raises Interrupted on the spot:
    nothing is written after that, so the last checkpoint stays as it is.
    """

    def __init__(self) -> None:
        self.received = 0
        """The signal's number, 0 if there was none."""
        self._deferred = False
        self._asked_by_hand = False
        self._rank = 0
        self._process = os.getpid()
        self._terminals: list[int] = []
        self._earlier: dict[int, signal.Handlers | int | object] = {}

    def install(self, trainer: Trainer) -> None:
        """Take over the signals' handlers, before the Trainer fits."""
        self.received = 0
        self._deferred = False
        self._asked_by_hand = False
        self._rank = trainer.global_rank
        self._process = os.getpid()
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        # only the main thread may set handlers; a fit in another thread leaves them to the program around it
        if threading.current_thread() is threading.main_thread():
            for number in signals_to_handle():
                self._earlier.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._handle)

    def defer(self, trainer: Trainer) -> None:
        """From now on a signal is a flag, looked at between batches.

        Lightning has put its own handlers over ours by now. Its SIGTERM handler broadcasts from inside the
        handler and its SLURM handler writes a checkpoint there, in the middle of a step: both are taken out.
        """
        if self._earlier:
            drop_signal_handlers(trainer)
            for number in self._earlier:
                signal.signal(number, self._handle)
        self._deferred = True

    def restore(self) -> None:
        """Give the handlers back as they were."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal.signal returned it
        self._earlier.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker that inherited the handler: its main process decides
        self._leave_closed_terminals()
        if self._deferred and not (number == signal.SIGINT and self._asked_by_hand):
            self._asked_by_hand = self._asked_by_hand or number == signal.SIGINT
            is_first, self.received = not self.received, self.received or number
            if is_first and self._rank == 0:
                name = signal.Signals(number).name
                again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
                # not print: a handler may interrupt a print, and buffered files refuse to be entered twice
                os.write(2, f"\n{name}: stopping at the next boundary of a step{again}\n".encode())
            return
        self.restore()
        where = "at once; the last checkpoint is untouched" if self._deferred else "before training began"
        raise Interrupted(number, self._rank, f"stopped by {signal.Signals(number).name} {where}")

    def _leave_closed_terminals(self) -> None:
        """Send what a closed terminal would refuse, a progress bar for example, nowhere."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)

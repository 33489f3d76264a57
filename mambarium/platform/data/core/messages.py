"""What data modules tell their user beside the results."""

import sys

from lightning.pytorch.utilities.rank_zero import rank_zero_only


def note(message: str) -> None:
    """Prints one line to standard error, in the first of several processes alone.

    Args:
        message: The line.
    """
    if _rank() == 0:
        print(f"note: {message}", file=sys.stderr, flush=True)


def note_of_process(message: str) -> None:
    """Prints one line to standard error in whichever process it is called, with the process's number after the first.

    For what a single process meets, such as a broken sample of its share.

    Args:
        message: The line.
    """
    rank = _rank()
    print(f"note (process {rank}): {message}" if rank else f"note: {message}", file=sys.stderr, flush=True)


def _rank() -> int:
    return getattr(rank_zero_only, "rank", None) or 0

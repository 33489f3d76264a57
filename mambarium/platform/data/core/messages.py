"""What data modules tell their user beside the results."""

import sys
from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_only

LISTED = 10
"""Entries up to which lists are printed whole."""

ENDS = 3
"""Entries that are printed of either end of a longer list."""


def note(message: str) -> None:
    """Print one line to standard error, in the first of several processes alone."""
    if _rank() == 0:
        print(f"note: {message}", file=sys.stderr, flush=True)


def note_of_process(message: str) -> None:
    """Print one line to standard error in whichever process it is called, with the process's number after the first.

    For what a single process meets, such as a broken sample of its share.
    """
    rank = _rank()
    print(f"note (process {rank}): {message}" if rank else f"note: {message}", file=sys.stderr, flush=True)


def _rank() -> int:
    return getattr(rank_zero_only, "rank", None) or 0


def shortened(entries: Sequence[str]) -> str:
    """Put a list in words, of a long one the beginning and the end."""
    if len(entries) > LISTED:
        entries = [*entries[:ENDS], "...", *entries[-ENDS:]]
    return ", ".join(entries)

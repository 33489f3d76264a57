"""What data modules tell their user beside the results."""

import sys

from lightning.pytorch.utilities.rank_zero import rank_zero_only


def note(message: str) -> None:
    """Prints one line to standard error, in the first of several processes alone.

    Args:
        message: The line.
    """
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(f"note: {message}", file=sys.stderr, flush=True)

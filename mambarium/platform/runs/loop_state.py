"""Puts Lightning's loop counters into the one state that resumes exactly: between two batches."""

from typing import Any


def place_between_batches(
    fit_loop: dict[str, Any], finished_batches: int, optimizer_steps: int, validation_owed: bool
) -> None:
    """Rewrites the state of Lightning's fit loop, in place, to "so many batches done, the next not begun".

    Lightning guesses from its counters in which hook a checkpoint was written and repeats or skips
    validations and log steps accordingly; the counters also drift over chains of resumes. Ours are the truth,
    so the guess is taken out of play. The names are Lightning 2.6's (`loops/fit_loop.py`,
    `training_epoch_loop.py`, `evaluation_loop.py`).

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`.
        finished_batches: Training batches done.
        optimizer_steps: Optimiser steps done.
        validation_owed: Whether a validation follows these batches and has not been completed.
    """
    # one unfinished epoch: Lightning then neither begins a new one nor takes training for done
    _set_progress(fit_loop["epoch_progress"], ready=1, started=1, processed=0, completed=0)
    batches = fit_loop["epoch_loop.batch_progress"]
    _set_progress(batches, **dict.fromkeys(("ready", "started", "processed", "completed"), finished_batches))
    batches["is_last_batch"] = False
    # Lightning counts the step only after the validation that follows it
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = optimizer_steps - validation_owed
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    # a validation that was begun and not ended is run again, from its first batch
    _set_progress(validation, ready=int(validation_owed), started=int(validation_owed), processed=0, completed=0)
    validation["is_last_batch"] = False


def _set_progress(progress: dict[str, Any], **counters: int) -> None:
    progress["total"].update(counters)
    progress["current"].update(counters)

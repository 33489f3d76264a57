"""Which of a run's checkpoints it goes on from, and whether it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from mambarium.errors import InputError
from mambarium.files import name_aside
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO, DamagedCheckpointError, read_checkpoint
from mambarium.platform.runs.checkpoints import CHECKPOINT_NAMES, RunCheckpoint
from mambarium.platform.runs.metrics_file import MetricsFile
from mambarium.platform.runs.tensorboard import RunTensorBoard

STATES = {
    "Position": ("finished_batches",),
    "ValidationSchedule": ("owed",),
    "RunCheckpoint": ("best_value", "metrics", "log", "events", "ended"),
}
"""What the callbacks of exact resume keep in every checkpoint."""


class Found(NamedTuple):
    """A checkpoint to go on from."""

    path: Path
    checkpoint: dict[str, Any]
    notes: tuple[str, ...] = ()
    """A line for the user on each checkpoint that would have come before it."""


def find_checkpoint(folder: Path) -> Found | None:
    """Read the best checkpoint that is left: `last.ckpt`, else `previous.ckpt`, else `best.ckpt`; None if there is none.

    Raises:
        InputError: If there are files and none of them is a checkpoint to go on from.
    """
    unfit: list[tuple[Path, str]] = []
    for path in (folder / name for name in CHECKPOINT_NAMES):
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path)
            if lack := missing_state(checkpoint):
                raise DamagedCheckpointError(f"is no checkpoint of a run ({lack})")
        except DamagedCheckpointError as error:
            unfit.append((path, str(error)))
            continue
        instead = f"the run goes on from {path.name}, step {checkpoint['global_step']}"
        notes = [f"{bad} {damage}: it is kept as {name_aside(bad).name}, {instead}" for bad, damage in unfit]
        if not unfit and path.name != CHECKPOINT_NAMES[0]:
            notes = [f"{folder / CHECKPOINT_NAMES[0]} is gone: {instead}"]
        return Found(path, checkpoint, tuple(notes))
    if not unfit:
        return None
    listed = "; ".join(f"{path.name} {damage}" for path, damage in unfit)
    raise InputError(
        f"{folder} holds no checkpoint to go on from ({listed}); put an intact one there, or start anew with another "
        "--name"
    )


def missing_state(checkpoint: Any) -> str | None:
    """Return what a loaded checkpoint lacks that a run needs to go on exactly, or None."""
    if not isinstance(checkpoint, dict):
        return f"it holds a {type(checkpoint).__name__} where a checkpoint has named entries"
    for name, kind in (("state_dict", dict), ("global_step", int), ("loops", dict), ("callbacks", dict)):
        if not isinstance(checkpoint.get(name), kind):
            return f"it lacks '{name}'"
    optimizers = checkpoint.get("optimizer_states")
    if not isinstance(optimizers, list) or not optimizers:
        return "it lacks the optimiser's state"
    if not all(isinstance(state, dict) and {"state", "param_groups"} <= state.keys() for state in optimizers):
        return "the optimiser's state is incomplete"
    if not isinstance(checkpoint.get("lr_schedulers"), list):
        return "it lacks 'lr_schedulers'"
    for name, keys in STATES.items():
        state = checkpoint["callbacks"].get(name)
        if not isinstance(state, dict) or not set(keys) <= state.keys():
            return f"it lacks the state of {name}"
    return None


def check_unfinished(found: Found) -> None:
    """Refuse a checkpoint, from anywhere, with which a run could not go on or has nothing left to do."""
    weights = f"a new run starts from its weights with --model.pretrained {found.path} in place of --ckpt_path"
    if lack := missing_state(found.checkpoint):
        raise InputError(f"{found.path}: no run can go on from it ({lack}); {weights}")
    if found.checkpoint["callbacks"][RunCheckpoint.__name__]["ended"]:
        step = found.checkpoint["global_step"]
        raise InputError(
            f"{found.path} is the end of a finished run (step {step}), nothing is left to train; {weights}"
        )


def hand_over(found: Found | None, trainer: Trainer) -> Path | None:
    """Let a Trainer restore what has been read already, and return the file for `Trainer.fit`; None to begin anew.

    Whoever still refers to the checkpoint keeps its memory from being freed.
    """
    if found is None:
        return None
    files = trainer.strategy.checkpoint_io
    assert isinstance(files, AtomicCheckpointIO)
    files.hand_over(found.path, found.checkpoint)
    return found.path


def check_restorable(found: Found, trainer: Trainer, own: bool) -> None:
    """Refuse a checkpoint that would restore less than the run has, before anything is written.

    One of the run's `own` folder counts the logs beside it, which must be there too.
    """
    states = found.checkpoint["callbacks"]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
        if callback.state_dict() and callback.state_key not in states:
            raise InputError(
                f"{found.path} lacks the state of {type(callback).__name__}, so the run can't go on from it exactly; "
                f"a new run starts from its weights with --model.pretrained {found.path}"
            )
    if not own:
        return
    counted = states[RunCheckpoint.__name__]
    try:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.check(int(counted["log"]["rows"]))
            elif isinstance(logger, RunTensorBoard):
                logger.check(counted["events"])
    except InputError as error:
        raise InputError(
            f"{error}; put the rest back, or go on without it under another name (--name NEW --ckpt_path {found.path})"
        ) from None

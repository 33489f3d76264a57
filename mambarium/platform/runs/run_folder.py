"""The folder of a run, `runs/<name>/`: what is in it, and what the same command does the next time."""

from __future__ import annotations

import json
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import yaml
from filelock import FileLock, Timeout

from mambarium.errors import InputError
from mambarium.files import write_atomically

if TYPE_CHECKING:
    from mambarium.platform.runs.recovery import Found

ResumePolicy = Literal["auto", "must", "never"]
Status = Literal["running", "interrupted", "finished", "failed"]

UNCOMPARED_KEYS = (
    "data.init_args.num_workers",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.profiler",
)
"""Configuration keys that may change between the parts of one run, because they don't change its result."""


SHOWN_DIFFERENCES = 6
"""So many differences of two configurations are named in a message."""

ABSENT = object()
"""Stands for the value of a key that a configuration lacks."""

OWN_NAMES = (".lock", "config.yaml", "checkpoints", "metrics.csv", "tensorboard")
OWN_PREFIXES = ("test", "validate", "predictions", ".run.json", ".config.yaml")
"""What a folder without a record may hold: results of an evaluation, or what a start that was killed at once left."""


class Step(Enum):
    """What a `fit` command is to do in a run folder."""

    START = "start"
    RESUME = "resume"
    NOTHING = "nothing"


class Decision(NamedTuple):
    """A step, and the checkpoint to go on from; without one it begins with fresh weights."""

    step: Step
    found: Found | None = None


class RunFolder:
    """Paths and record of one run; the folder need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.record_path = path / "run.json"
        self.checkpoints = path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.metrics_path = path / "metrics.csv"
        self.tensorboard = path / "tensorboard"
        self._lock = FileLock(path / ".lock")

    def record(self) -> dict[str, Any]:
        """Return the run's record, empty if there is none.

        Raises:
            InputError: If the record can't be read.
        """
        if not self.record_path.exists():
            return {}
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__}")
            if record.get("status") not in get_args(Status) or not isinstance(record.get("parts"), list):
                raise ValueError("no status and parts")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.record_path} is not the record that a run writes (found {error}); put it back, or remove it, "
                "and the same command goes on from the run's checkpoints"
            ) from error
        return record

    def lock(self) -> None:
        """Keep other processes from training into this folder until this process ends; refuse where one does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.path}: another process is training this run; wait for it, stop it, or use another --name"
            ) from None
        except OSError as error:
            raise InputError(f"{self.path} can't be written ({error.strerror}); give another --runs_dir") from error

    def unlock(self) -> None:
        """Let other processes in again."""
        self._lock.release()

    def decide(self, config: dict[str, Any], resume: ResumePolicy) -> Decision:
        """Return what the same command does here.

        No run yet: start. Unfinished: go on from the best checkpoint that is left. Finished: nothing. A run that died
        before its first checkpoint left nothing to lose, so its folder is used again.

        Args:
            config: The resolved configuration of the command.
            resume: `auto` starts or resumes, `must` only resumes, `never` only starts.

        Raises:
            InputError: If the folder holds something else, another configuration, what `resume` excludes, or a trained
                run without a checkpoint to go on from.
        """
        record = self.record()
        if record.get("status") == "finished":
            self._refuse_never(resume)
            self._check_config(self._stored_config(), config)
            return Decision(Step.NOTHING)
        decision = self.follow()
        if decision.found is not None:
            self._refuse_never(resume)
            try:
                stored = parsed_config(decision.found.checkpoint.get("run_config", ""))
            except ValueError as error:
                raise InputError(
                    f"{decision.found.path} is no checkpoint that fit wrote here ({error}); use another --name"
                ) from error
            self._check_config(stored, config)
            return decision
        if not record:
            entries = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
            others = [name for name in entries if name not in OWN_NAMES and not name.startswith(OWN_PREFIXES)]
            if others:
                raise InputError(f"{self.path} is not empty and no run (holds {others[0]}); use another --name")
            if resume == "must":
                raise InputError(f"{self.path}: no run to resume; check --name, or start it with --resume auto")
            return decision
        self._refuse_never(resume)
        if trained := record.get("checkpoint_step"):
            raise InputError(
                f"{self.path} was trained to step {trained}, but {self.checkpoints} holds no checkpoint any more; put "
                "one back, or start anew with another --name"
            )
        if resume == "must":
            raise InputError(f"{self.path}: the run has no checkpoint yet; start it again with --resume auto")
        return decision

    def follow(self) -> Decision:
        """Return the decision of the first process, as a further process of the same run sees it."""
        # compare reads run folders and needs no torch
        from mambarium.platform.runs.recovery import find_checkpoint

        if self.record().get("status") == "finished":
            return Decision(Step.NOTHING)
        found = find_checkpoint(self.checkpoints)
        return Decision(Step.START if found is None else Step.RESUME, found)

    def _refuse_never(self, resume: ResumePolicy) -> None:
        if resume == "never":
            raise InputError(f"{self.path} holds a run already; use another --name, or --resume auto to go on with it")

    def _check_config(self, stored: dict[str, Any], config: dict[str, Any]) -> None:
        if differences := config_differences(stored, config):
            listed = "; ".join(differences[:SHOWN_DIFFERENCES])
            if len(differences) > SHOWN_DIFFERENCES:
                listed += f"; and {len(differences) - SHOWN_DIFFERENCES} more"
            raise InputError(
                f"{self.path} holds a run with another configuration ({listed}); use another --name, or the old values"
            )

    def _stored_config(self) -> dict[str, Any]:
        """Return the configuration in `config.yaml`."""
        try:
            return parsed_config(self.config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            cause = " ".join(str(error).split())
            raise InputError(
                f"{self.config_path} can't be read ({cause}); put it back, or use another --name"
            ) from error

    def stamp(self) -> list[tuple[str, int, int, int]]:
        """Return what tells whether another process has worked here since: the record's and the checkpoints' inodes."""
        paths = [self.record_path, *(self.checkpoints.iterdir() if self.checkpoints.is_dir() else [])]
        stats = [(path.name, path.stat()) for path in paths if path.exists()]
        return sorted((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

    def begin(self, config: dict[str, Any], decision: Decision) -> None:
        """Write configuration and record at the start of a run or of a further part of it."""
        if decision.step is Step.START:
            self._write_record({"status": "running", "started": now(), "parts": [part()]})
            self._write_config(config)
            self.metrics_path.unlink(missing_ok=True)
            return
        record = self.record() or {"started": now(), "parts": []}
        assert decision.found is not None
        step = decision.found.checkpoint["global_step"]
        parts = [*record["parts"], part()]
        self._write_record({**record, "status": "running", "checkpoint_step": step, "parts": parts})
        try:
            self._stored_config()
        except InputError:
            # the checkpoint's own, to which this one is equal, has been compared
            self._write_config(config)

    def _write_config(self, config: dict[str, Any]) -> None:
        write_atomically(self.config_path, yaml.safe_dump(config, sort_keys=False))

    def end(self, status: Status, **values: Any) -> None:
        """Write how this part of the run ended.

        Args:
            status: How it ended.
            values: Entries of the record to set: train_seconds over all parts, step, checkpoint_step (of the last
                checkpoint), metrics, parameters, references.
        """
        self._write_record({**self.record(), "status": status, "ended": now(), **values})

    def _write_record(self, record: dict[str, Any]) -> None:
        write_atomically(self.record_path, json.dumps(record, indent=2) + "\n")


def part() -> dict[str, Any]:
    """When, where and with what a part of a run was trained."""
    versions = {}
    for name in ("mambarium", "torch", "lightning", "numpy"):
        with suppress(PackageNotFoundError):  # the package itself may run from a source folder
            versions[name] = version(name)
    return {
        "started": now(),
        "command": " ".join(sys.argv),
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": versions,
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def parsed_config(text: str) -> dict[str, Any]:
    """Return a configuration from its YAML text.

    Raises:
        ValueError: If it is none.
    """
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(config, dict):
        raise ValueError(f"{'nothing' if config is None else type(config).__name__} where a configuration has sections")
    return config


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Each key whose value differs, as `key: old -> new`."""
    flat_old, flat_new = flatten(old), flatten(new)
    return [
        f"{key}: {shown(flat_old.get(key, ABSENT))} -> {shown(flat_new.get(key, ABSENT))}"
        for key in sorted({*flat_old, *flat_new})
        if flat_old.get(key, ABSENT) != flat_new.get(key, ABSENT) and not key.startswith(UNCOMPARED_KEYS)
    ]


def shown(value: Any) -> str:
    """Return a value as YAML writes it, on one line; `ABSENT` in words."""
    if value is ABSENT:
        return "(not there)"
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0].strip()


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; lists are values."""
    if not isinstance(config, dict) or not config:
        return {prefix.removesuffix("."): config}
    return {key: value for name, child in config.items() for key, value in flatten(child, f"{prefix}{name}.").items()}

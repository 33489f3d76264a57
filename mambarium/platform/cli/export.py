"""`export`: a checkpoint's weights in the format of others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.allowed_imports import allow_imports
from mambarium.platform.cli.configuration.building import build_task
from mambarium.platform.cli.configuration.shipped_configs import find_config
from mambarium.platform.cli.configuration.trained_model import choose_checkpoint, run_path
from mambarium.platform.runs.run_folder import RunFolder
from mambarium.tasks import export_official, export_transformers


def export(
    output: Path,
    ckpt_path: str | None = None,
    format: Literal["official", "transformers"] = "official",
    config: str | None = None,
    name: str | None = None,
    runs_dir: Path = Path("runs"),
    trust: list[str] | None = None,
) -> int:
    """Write a checkpoint's weights for the code of others; of a run with averaged weights, these.

    Args:
        output: What to write: a safetensors file, or for transformers a folder. Nothing is overwritten.
        ckpt_path: The checkpoint: a file that `fit` wrote, or last (taken if not given) or best of the run.
        format: Keys and shapes of the family's official code, or a folder for transformers (Mamba language models).
        config: The run's configuration file, which gives its name.
        name: The run's name; that of the configuration file if not given.
        runs_dir: Where the folders of runs lie.
        trust: Modules of yours that the checkpoint may name (its backbone's, say).

    Raises:
        InputError: If the checkpoint can't be read, has no such format, or the output exists.
    """
    if output.exists():
        raise InputError(f"{output} exists; give another --output, or remove it")
    folder = RunFolder(run_path(name, runs_dir, [find_config(config)] if config else [], ckpt_path))
    trained = choose_checkpoint(ckpt_path, folder)
    description = trained.description(trust or [])
    allow_imports(trust or [])
    build_task(trained, description, "meta")  # what it says may be of any size; its weights are not
    task = build_task(trained, description)
    if format == "official":
        export_official(task, output)
    else:
        export_transformers(task, output)
    print(f"{format} format of {trained.path}: {output}")
    return 0

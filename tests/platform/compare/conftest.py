"""A small comparison, and a program that stands in for `mambarium`: it acts like `fit` and `test`.

Its steps take no time once a file `hurry` lies in the comparison's folder.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

verb, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
task = json.loads(Path(options["--config"]).read_text())
folder = Path(options["--runs_dir"]) / options["--name"]
steps = int(options.get("--data.steps", task["steps"]))


def write_run(status, step):
    parts = [{"python": "3.11", "versions": {"torch": "2.11"}}]
    (folder / "run.json").write_text(
        json.dumps({"status": status, "step": step, "train_seconds": step / 10, "parts": parts})
    )


if verb == "fit":
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: os._exit(9) if stopped else stopped.append(number))
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    print("training from step", step)
    if "needs" in task and not Path(task["needs"]).exists():
        print("some warning", file=sys.stderr)
        print("error: no folder of images " + task["needs"], file=sys.stderr)
        write_run("failed", step)
        sys.exit(2)
    if task.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    while step < steps and not stopped:
        if not (folder.parent / "hurry").exists():
            time.sleep(task["step_seconds"])
        with (folder / "trace").open("a") as trace:
            trace.write(f"{os.getpid()} {step}\\n")
        step += 1
    if stopped:
        time.sleep(task.get("saving_seconds", 0))
    checkpoint.write_text(str(step))
    with (folder / "trace").open("a") as trace:
        trace.write(f"{os.getpid()} saved\\n")
    write_run("interrupted" if stopped else "finished", step)
    sys.exit(128 + stopped[0] if stopped else 0)

step = int((folder / "checkpoints" / "last.ckpt").read_text())
width = int(Path(options["--model.backbone"]).read_text().split("width:")[1])
metrics = {"accuracy": (step + width + int(options["--seed_everything"])) / 1000, "loss": 0.1}
primary = {"name": task.get("primary", "accuracy"), "direction": "max"}
(folder / "test.json").write_text(
    json.dumps(
        {
            "metrics": metrics,
            "primary_metric": primary,
            "checkpoint": str(folder / "checkpoints" / "last.ckpt"),
            "parameters": 1000 * width,
            "seconds": 0.5,
        }
    )
)
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """The command line of the stand-in."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


WriteMatrix = Callable[..., Path]


@pytest.fixture
def write_matrix(tmp_path: Path) -> WriteMatrix:
    """Writes a comparison of one task, backbones `narrow` and `wide`; keywords go into the task's config."""

    def write(seeds: tuple[int, ...] = (0,), overrides: dict[str, object] | None = None, **task: object) -> Path:
        (tmp_path / "narrow.yaml").write_text("class_path: Net\ninit_args:\n  width: 2")
        (tmp_path / "wide.yaml").write_text("class_path: Net\ninit_args:\n  width: 4")
        config = {"steps": 3, "step_seconds": 0.0, **task}
        (tmp_path / "digits.yaml").write_text(json.dumps(config))
        digits = {
            "config": "digits.yaml",
            "backbones": {"narrow": "narrow.yaml", "wide": "wide.yaml"},
            "overrides": overrides or {},
        }
        matrix = tmp_path / "mine.yaml"
        matrix.write_text(
            yaml.safe_dump({"name": "mine", "seeds": list(seeds), "tasks": {"digits": digits}}, sort_keys=False)
        )
        return matrix

    return write

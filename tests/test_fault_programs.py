"""The programs that kill and damage runs find nothing wrong, and would say so."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "scripts" / "faults"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "options", "result"),
    [
        (
            "kill_runs.py",
            ["--run", "digits", "--run", "text", "--chains", "1", "--kills", "2"],
            "0 chains not identical",
        ),
        ("kill_in_saves.py", ["--run", "digits", "--last", "6"], "7 kills in one checkpoint, 0 runs not identical"),
        ("damage_checkpoints.py", ["--run", "digits", "--cases", "8"], "8 damages: "),
    ],
)
def test_nothing_is_lost(tmp_path: Path, program: str, options: list[str], result: str) -> None:
    command = [sys.executable, str(PROGRAMS / program), *options, "--out", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert result in finished.stdout


@pytest.mark.slow
def test_a_lost_row_is_said(tmp_path: Path) -> None:
    """The comparison that all three make."""
    program = f"""
import sys, shutil
sys.path.insert(0, {str(PROGRAMS)!r})
from pathlib import Path
from commands import fit_options, undisturbed
from comparison import differences
one = undisturbed(fit_options("digits"), Path("one"))
other = Path(shutil.copytree(one, "other"))
print(differences(one, other))
lines = (other / "metrics.csv").read_text().splitlines()
(other / "metrics.csv").write_text("\\n".join(lines[:-1]))
for path in (other / "tensorboard").glob("events*"):
    path.write_bytes(path.read_bytes()[:-40])
print([line.partition(":")[0] for line in differences(one, other)])
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert finished.stdout == "[]\n['metrics.csv', 'tensorboard/.']\n", finished.stderr

"""The harness of damaged configurations finds what it is to find, and nothing else."""

import importlib.util
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "faults" / "fuzz_configurations.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_configurations", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_same_seed_gives_the_same_damaged_cases(fuzz: ModuleType) -> None:
    first, again, other = (list(itertools.islice(fuzz.cases(seed), 30)) for seed in (1, 1, 2))
    assert first == again != other
    assert {case.name.split("/")[0] for case in first} > {"classification", "language_modeling"}
    assert all(case.changes for case in first)


@pytest.mark.parametrize(
    ("code", "output", "found"),
    [
        (0, "trainer: ...", None),
        (99, "run ...", None),
        (2, "note: x\nerror: data.path: no value given", None),
        (None, "", "killed after 60 s"),
        (1, "error: fit: unexpected KeyError: 'a' (mambarium/x.py:17)", "exit code 1: error: fit: unexpected KeyError"),
        (-9, "", "exit code -9"),
        (2, "usage", "exit code 2 with 0 lines of error"),
        (2, "error: a\nerror: b", "exit code 2 with 2 lines of error"),
        (2, "Traceback (most recent call last):\n  x\nKeyError: 31\nerror: a", "a traceback: error: a"),
        (2, f"error: {'x' * 1600}", "a line of more than 1500 characters"),
    ],
)
def test_what_counts_as_a_failure(fuzz: ModuleType, code: int | None, output: str, found: str | None) -> None:
    fault = fuzz.fault(fuzz.Outcome(code, output, 1.0))
    assert (fault is None) == (found is None) and (found is None or fault.startswith(found))


def test_a_child_s_end_is_told(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speak() -> int:
        os.write(1, b"hello\n")
        return 3

    def hang() -> int:
        time.sleep(60)
        return 0

    assert fuzz.in_child(speak, tmp_path)[:2] == (3, "hello\n")
    monkeypatch.setattr(fuzz, "SECONDS_PER_CASE", 0.2)
    assert fuzz.in_child(hang, tmp_path).code is None


@pytest.mark.slow
def test_damaged_configurations_are_built_or_refused_in_one_line() -> None:
    ended = subprocess.run([sys.executable, SCRIPT, "--count", "60", "--seed", "5"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "60 cases" in ended.stdout and "failed: 0, of 0 kinds" in ended.stdout
    for end in ("refused", "came to the first step"):
        assert end in ended.stdout

"""The harness of damaged configurations finds what it is to find, and nothing else."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.thorough

SCRIPT = Path(__file__).parents[1] / "scripts" / "faults" / "fuzz_configurations.py"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("fuzz_configurations", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
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
        (None, "", "takes more than 60 s"),
        (1, "error: fit: unexpected KeyError: 'a' (mambarium/x.py:17)", "exit code 1: error: fit: unexpected KeyError"),
        (-11, "", "exit code -11"),
        (2, "usage", "exit code 2 with 0 lines of error"),
        (2, "error: a\nerror: b", "exit code 2 with 2 lines of error"),
        (2, "Traceback (most recent call last):\n  x\nKeyError: 31\nerror: a", "a traceback: error: a"),
        (2, f"error: {'x' * 1600}", "a line of more than 1500 characters"),
    ],
)
def test_what_counts_as_a_failure(fuzz: ModuleType, code: int | None, output: str, found: str | None) -> None:
    fault = fuzz.fault(fuzz.Outcome(code, output, 1.0))
    assert (fault is None) == (found is None) and (found is None or fault.startswith(found))


def test_a_case_is_brought_up_to_its_first_step_or_refused_or_takes_too_long(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from pathlib import Path
import fuzz_configurations as fuzz
import yaml

name = "classification/digits_mambaout"
config = yaml.safe_dump(fuzz.resolve_yaml(fuzz.configs_folder() / f"{{name}}.yaml")).encode()
for seconds, content in ((60, config), (60, config.replace(b"widths", b"width")), (0, config)):
    fuzz.SECONDS_PER_CASE = seconds
    folder = Path(str(seconds) + str(len(content)))
    folder.mkdir()
    outcome = fuzz.run_case(fuzz.Case(name, [], content), folder)
    print(outcome.code, "model    MambaOut" in outcome.output, outcome.output.count("error: "))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout == "99 True 0\n2 False 1\nNone False 0\n", ended.stdout + ended.stderr


@pytest.mark.slow
def test_damaged_configurations_are_built_or_refused_in_one_line() -> None:
    ended = subprocess.run([sys.executable, SCRIPT, "--count", "60", "--seed", "5"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "60 cases" in ended.stdout and "failed: 0, of 0 kinds" in ended.stdout
    for end in ("refused", "came to the first step"):
        assert end in ended.stdout

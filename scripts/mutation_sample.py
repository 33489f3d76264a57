"""Sample faults in what decides a result, and see which of them the tests notice.

python scripts/mutation_sample.py                  300 mutants, seed 0, into mutants.csv; --help has more

A mutant is one changed operator, constant, return value or keyword in a copy of the tree; the tests of the changed
module run on it. Each is a row of the CSV file: killed, survived or timeout. The same command again goes on from there.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    *(f"tasks/{folder}/*.py" for folder in ("detection", "segmentation", "classification", "dense")),
    *(f"tasks/{name}" for name in ("language_modeling/*.py", "multitask/*.py", "objective.py", "optimization.py")),
    *(f"platform/data/core/{name}.py" for name in ("order", "task_turns")),
    "platform/data/images/classification/labelled_images.py",
    "platform/data/images/dense/*_images.py",
    "platform/data/images/detection/detection_images.py",
    "platform/data/images/segmentation/segmentation_images.py",
    "platform/data/text/token_windows.py",
)
TESTS = {  # where they are not at the mirrored path
    "tasks/dense": ("tasks/detection", "tasks/segmentation"),
    "tasks/detection/average_precision": ("tasks/detection/test_average_precision.py",),
    "tasks/objective": ("tasks/test_optimization.py", "tasks/test_fine_tuning.py", "tasks/multitask"),
    "tasks/optimization": ("tasks/test_optimization.py", "tasks/test_fine_tuning.py", "tasks/test_against_timm.py"),
    "platform/data/core/order": ("platform/data/core/test_order.py",),
    "platform/data/core/task_turns": ("platform/data/core/test_multitask_data.py",),
    "platform/data/images/classification": ("platform/data/images/test_image_data.py",),
    "platform/data/images/dense": ("platform/data/images/detection/test_detection_data.py",),
    "platform/data/images/detection": ("platform/data/images/detection", "platform/cli/test_detection_runs.py"),
    "platform/data/images/segmentation": ("platform/data/images/segmentation", "tasks/segmentation"),
    "platform/data/text": ("platform/data/text/test_text_data.py", "platform/cli/test_show_data.py"),
}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARISONS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
OPERATORS |= {ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
UNSEEN = ("strict", "device")
"""Keywords that change no result on a CPU with right data."""


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that may be changed: not annotations, decorators, imports, error messages."""
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for node in field if isinstance(field, list) else [field]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if isinstance(node, ast.keyword) and node.arg in UNSEEN:
                continue
            yield node
            yield from sites(node)


def changes(node: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """Names of a node's mutations, and the attributes that make them."""
    match node:
        case ast.Compare(ops=[op, *others]):
            yield (
                f"{type(op).__name__} to {COMPARISONS[type(op)].__name__}",
                {"ops": [COMPARISONS[type(op)](), *others]},
            )
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield f"{type(op).__name__} to {OPERATORS[type(op)].__name__}", {"op": OPERATORS[type(op)]()}
        case ast.BoolOp(op=ast.And()):
            yield "And to Or", {"op": ast.Or()}
        case ast.BoolOp(op=ast.Or()):
            yield "Or to And", {"op": ast.And()}
        case ast.UnaryOp(op=ast.Not()):
            yield "not removed", {"op": ast.Not(), "operand": ast.UnaryOp(ast.Not(), node.operand)}
        case ast.UnaryOp(op=ast.USub()):
            yield "minus removed", {"op": ast.UAdd()}
        case ast.Constant(value=bool(value)):
            yield f"{value} to {not value}", {"value": not value}
        case ast.Constant(value=int(value) | float(value)):
            for step in (1, -1):
                yield f"{value} to {value + step}", {"value": value + step}
        case ast.Return(value=ast.AST() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return None", {"value": ast.Constant(None)}
        case ast.Call(keywords=keywords):
            for index, keyword in enumerate(keywords):
                if keyword.arg and keyword.arg not in UNSEEN:
                    yield f"{keyword.arg}= removed", {"keywords": keywords[:index] + keywords[index + 1 :]}


def mutants(root: Path) -> Iterator[tuple[tuple[str, int, int, str], str]]:
    """Each mutant's file, line, column and change, and the mutated source."""
    for pattern in MODULES:
        for path in sorted((root / "mambarium").glob(pattern)):
            tree = ast.parse(path.read_text())
            for node in list(sites(tree)):
                for change, attributes in list(changes(node)):
                    before = {name: getattr(node, name) for name in attributes}
                    vars(node).update(attributes)
                    source = ast.unparse(ast.fix_missing_locations(tree))
                    vars(node).update(before)
                    yield (str(path.relative_to(root)), node.lineno, node.col_offset, change), source


def tests_of(root: Path, file: str) -> list[str]:
    """The test files that belong to a module: those that the table names, else those of the mirrored folder."""
    module = file.removeprefix("mambarium/").removesuffix(".py")
    named = [places for name, places in TESTS.items() if f"{module}/".startswith(f"{name}/")]
    files = []
    for place in named[0] if named else [str(Path(module).parent)]:
        path = root / "tests" / place
        files += sorted(path.glob("test_*.py")) if path.is_dir() else [path]
    return [str(each.relative_to(root)) for each in files]


def run_tests(root: Path, tests: list[str], log: Path) -> None:
    """In a process of its own: exit with pytest's code."""
    import pytest

    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(root)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    os._exit(pytest.main(["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]))


def outcome(root: Path, tests: list[str], seconds: float) -> str:
    """Return what the tests say: survived, killed or timeout."""
    process = get_context("fork").Process(target=run_tests, args=(root, tests, root / "mutant.log"))
    process.start()
    try:
        process.join(seconds)
    finally:
        if (late := process.is_alive()) and process.pid:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
    return "timeout" if late else "survived" if process.exitcode == 0 else "killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300, help="time limit of a mutant's tests")
    parser.add_argument("--output", type=Path, default=Path("mutants.csv"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that the copy is removed
    import lightning, torch, torchmetrics.detection, torchvision  # noqa: E401, F401, I001 (each mutant would import them)

    header = ["file", "line", "column", "mutation", "outcome", "seconds"]
    rows = list(csv.reader(options.output.open())) if options.output.exists() else []
    if not rows:
        options.output.write_text(",".join(header) + "\n")
    done = {tuple(row[:4]) for row in rows[1:]}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in listed.splitlines():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
        everything = list(mutants(root))
        chosen = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
        print(f"{len(chosen)} of {len(everything)} mutants, seed {options.seed}", flush=True)
        sound: set[tuple[str, ...]] = set()
        for number, (key, source) in enumerate(chosen, 1):
            if tuple(map(str, key)) in done:
                continue
            tests = tests_of(root, key[0])
            if tuple(tests) not in sound and outcome(root, tests, 3 * options.seconds) != "survived":
                sys.exit(f"{' '.join(tests)} fails without any mutant:\n{(root / 'mutant.log').read_text()[-2000:]}")
            sound.add(tuple(tests))
            path, start = root / key[0], time.monotonic()
            original = path.read_text()
            path.write_text(source)
            result = outcome(root, tests, options.seconds)
            path.write_text(original)
            with options.output.open("a", newline="") as file:
                csv.writer(file).writerow([*key, result, f"{time.monotonic() - start:.1f}"])
            print(f"{number:4} {result:8} {key[0]}:{key[1]} {key[3]}", flush=True)


if __name__ == "__main__":
    main()

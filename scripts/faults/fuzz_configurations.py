"""Damaged configurations through `fit`: each must be built, or refused in one clear line.

    python scripts/faults/fuzz_configurations.py --count 2000 --seed 0 --keep failures

Takes shipped configurations, changes them at random (values, keys, places, single bytes), and runs `fit` on each in a
process of its own, up to the first training step where the data comes with the package, else with `--print_config`.
A case fails if a traceback is printed, if the exit code is neither that of a good end nor 2, if 2 comes without one
line that begins with `error: `, or if it takes longer than a minute. Same seed, same cases. Needs Linux or macOS.

Prints how many cases ended in which way, and the first case of each kind of failure; ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from commands import finish, import_all

from mambarium.platform.cli import training
from mambarium.platform.cli.configuration.shipped_configs import configs_folder
from mambarium.platform.yaml_files import resolve_yaml

FIRST_STEP = 99
"""What a case ends with that has come to its first training step."""

SECONDS_PER_CASE = 60
"""Of the processor; a case that waits for something is killed after five times as many."""

MEMORY_BYTES = 8 * 2**30
LONGEST_LINE = 1500

FOLDERS = ("classification", "detection", "language_modeling", "multitask", "segmentation")
EMBEDDED_DATA = ("digits", "pydoc", "scenes", "copying", "recall", "induction")
"""Parts of the names of configurations whose data comes with the package."""

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 17, 2**31, 10**9, 10**13, -(10**25), 0.0, 0.3, -2.5, 1e-200, 1e200),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "no", "~", "1e3", "ß\u202e😀", "\x00", "x" * 3000),
    *("/", "..", "/dev/null", "~/nothing", "*.yaml", "{", "]", "%d", "a.b.c", "os.remove", "torch.nn.Identity"),
    *([], {}, [[]], [{}], [None, 1], [0, 0], [10**12], {"": 1}, {3: 4}, {"class_path": "Mamba"}, {"class_path": 5}),
    *({"init_args": {"depth": 2}}, {"class_path": "os.getcwd"}, {"class_path": "torch.optim.SGD", "init_args": []}),
)

KINDS = ("odd value", "odd value", "number", "number", "remove", "rename", "move", "wrap", "add", "nest")
"""Ways to change a value or key; more frequent ones are named twice."""

ODD_KEYS = ("seed", "init_args", "class_path", "dict_kwargs", "__path__", "trainer", 0, None)

ODD_TEXTS = (
    "again: &again [*again]\n",
    "deep: " + "[" * 4000 + "\n",
    "deep: " + "{k: " * 900 + "0" + "}" * 900 + "\n",
    "a0: &a0 [0, 0, 0, 0]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 4)}]\n" for n in range(1, 16)),
    "!!python/object/new:os.system ['true']\n",
    "trainer: {{ precision }}\n",
    "---\nmodel: 1\n---\n",
    "%TAG ! tag:x,2000:\n---\n",
    "<<: [1, 2]\n",
    "seed_everything: " + "7" * 5000 + "\n",
    "data: 2023-02-31\n",
    "? {a: b}\n: c\n",
    "model: !!binary ////\n",
    "\tdata: 1\n",
)


class Case(NamedTuple):
    """A damaged configuration: the shipped one it was, what was done to it, and its content."""

    name: str
    changes: list[str]
    content: bytes


class Outcome(NamedTuple):
    """How a case ended: its exit code, None if it took too long, its output and the seconds it took."""

    code: int | None
    output: str
    seconds: float


def shipped_names() -> list[str]:
    """All shipped configurations of experiments."""
    folder = configs_folder()
    files = sorted(file for part in FOLDERS for file in (folder / part).glob("*.yaml"))
    return [str(file.relative_to(folder).with_suffix("")) for file in files]


def cases(seed: int) -> Iterator[Case]:
    """Damaged configurations without end, a function of the seed."""
    draw = random.Random(seed)
    names = shipped_names()
    while True:
        name = draw.choice(names)
        config = resolve_yaml(configs_folder() / f"{name}.yaml")
        changes = [damage_tree(draw, config) for _ in range(draw.choice((1, 1, 2, 4)))]
        try:
            content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
        except RecursionError:
            continue  # nested deeper than can be written
        if draw.random() < 0.2:
            content, change = damage_text(draw, content)
            changes.append(change)
        yield Case(name, changes, content)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*path, key), *places(value, (*path, key)))]


def value_at(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return the value under a path."""
    for key in path:
        tree = tree[key]
    return tree


def damage_tree(draw: random.Random, config: Any) -> str:
    """Change one value or key of a configuration in place, and say which and how."""
    paths = places(config)
    if not paths:
        return "nothing left to change"
    path = draw.choice(paths)
    parent, key = value_at(config, path[:-1]), path[-1]
    old = parent[key]
    is_number = isinstance(old, int | float) and not isinstance(old, bool)
    kind = draw.choice(
        ("odd value", "odd value", "number", "number", "remove", "rename", "move", "wrap", "add", "nest")
    )
    if kind == "number" and is_number:
        factor = draw.choice((-1, 0, 0.5, 1.001, 3, 1000, 10**8, 1e-9))
        parent[key] = old * factor if draw.random() < 0.8 else draw.choice((str(old), [old], old + 1, float(old)))
    elif kind == "remove":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        text = str(key)
        parent[draw.choice((text[1:], text + "_", text.title(), f"{text}.{text}", "class_path", ""))] = parent.pop(key)
    elif kind == "move":
        parent[key] = copy.deepcopy(value_at(config, draw.choice(paths)))
    elif kind == "wrap":
        parent[key] = draw.choice(([old], [old] * 40, {"class_path": old}, {"init_args": old}, {str(key): old}))
    elif kind == "add" and isinstance(old, dict):
        old[draw.choice(ODD_KEYS)] = copy.deepcopy(draw.choice(ODD_VALUES))
    elif kind == "nest":
        for _ in range(draw.choice((3, 30, 300))):
            old = [old] if draw.random() < 0.5 else {"a": old}
        parent[key] = old
    else:
        kind = "odd value"
        parent[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    return f"{kind} at {'.'.join(map(str, path))}"


def damage_text(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """Return a configuration's bytes changed, and how."""
    kind = draw.choice(("bytes", "cut", "fragment", "fragment", "insert", "lines", "utf-16", "noise"))
    changed = bytearray(content)
    place = draw.randrange(len(changed) + 1)
    if kind == "bytes":
        for _ in range(draw.randint(1, 6)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    elif kind == "cut":
        del changed[place:]
    elif kind == "fragment":
        fragment = draw.choice(ODD_TEXTS).encode()
        changed[len(changed) * draw.randint(0, 1) : len(changed) * draw.randint(0, 1)] = fragment
    elif kind == "insert":
        changed[place:place] = draw.choice((b"\x00", b"\t", b": ", b"*x ", b"&x ", b"!!y ", b"'", b"\xff", b"{", b"- "))
    elif kind == "lines":
        lines = content.splitlines(keepends=True)
        draw.shuffle(lines)
        changed = bytearray(b"".join(lines))
    elif kind == "utf-16":
        changed = bytearray(content.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass"))
    else:
        changed = bytearray(draw.randbytes(draw.randint(0, 200)))
    return bytes(changed), kind


def run_case(case: Case, folder: Path) -> Outcome:
    """Run `fit` on a case, up to its first step if its data comes with the package."""
    (folder / "case.yaml").write_bytes(case.content)
    is_embedded = any(part in case.name for part in EMBEDDED_DATA)
    began = time.monotonic()
    options = ["fit", "--config", "case.yaml", *([] if is_embedded else ["--print_config"])]
    code, output = finish(options, folder, limit, patience=5 * SECONDS_PER_CASE)
    is_late = code in (-signal.SIGXCPU, -signal.SIGKILL)
    return Outcome(None if is_late else code, output, time.monotonic() - began)


def limit() -> None:
    """Have this process end before the first step, and take no more memory or time than a case may."""

    def stop(self: training.TrainingCLI) -> None:
        self.exit_code = FIRST_STEP

    training.TrainingCLI._train = stop  # type: ignore[method-assign]
    seconds = int(time.process_time()) + SECONDS_PER_CASE
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def fault(outcome: Outcome) -> str | None:
    """Return what is wrong with the way in which a case ended, in words that are the same for the same fault."""
    lines = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
    if outcome.code is None:
        return f"takes more than {SECONDS_PER_CASE} s"
    if "Traceback (most recent call last)" in outcome.output:
        return f"a traceback: {signature(outcome.output.strip().splitlines()[-1])}"
    if outcome.code not in (0, 2, FIRST_STEP):
        return f"exit code {outcome.code}: {signature(lines[-1] if lines else outcome.output[-200:])}"
    if outcome.code == 2 and len(lines) != 1:
        return f"exit code 2 with {len(lines)} lines of error: {signature(' / '.join(lines))}"
    if any(len(line) > LONGEST_LINE for line in lines):
        return f"a line of more than {LONGEST_LINE} characters: {signature(lines[0])}"
    return None


def signature(line: str) -> str:
    """Return a line without its figures, short."""
    return re.sub(r"\d+(\.\d+)?", "N", line)[:200]


def fuzz(count: int, seed: int, seconds: float, keep: Path | None) -> int:
    """Run cases and print the tally.

    Args:
        count: How many.
        seed: Which.
        seconds: Start no further case after so many.
        keep: Where to keep the first case of each kind of failure, and its output.

    Returns:
        1 if a case failed, else 0.
    """
    import_all()
    torch.set_num_threads(1)
    began = time.monotonic()
    ends: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for number, case in enumerate(cases(seed)):
        if number == count or time.monotonic() - began > seconds:
            break
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_case(case, Path(folder))
        names = {0: "parsed", 2: "refused", FIRST_STEP: "came to the first step"}
        ends["killed" if outcome.code is None else names.get(outcome.code, f"code {outcome.code}")] += 1
        found = fault(outcome)
        if found is None:
            continue
        faults[found] += 1
        if faults[found] == 1:
            print(
                f"case {number}, {case.name} ({'; '.join(case.changes)}), {outcome.seconds:.0f} s: {found}", flush=True
            )
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.yaml").write_bytes(case.content)
                (keep / f"{seed}-{number}.txt").write_text(outcome.output)
    tally = ", ".join(f"{name} {times}" for name, times in ends.most_common())
    print(f"{ends.total()} cases in {time.monotonic() - began:.0f} s, seed {seed}: {tally}")
    print(f"failed: {faults.total()}, of {len(faults)} kinds")
    for found, times in faults.most_common():
        print(f"  {times} x {found}")
    return int(bool(faults))


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="how many cases (200)")
    parser.add_argument("--seed", type=int, default=0, help="which cases (0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no further case after so many")
    parser.add_argument("--keep", type=Path, help="folder for the first case of each kind of failure")
    options = parser.parse_args()
    return fuzz(options.count, options.seed, options.seconds, options.keep)


if __name__ == "__main__":
    sys.exit(main())

"""The toy run as a module, and how two runs are compared."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    return _load("toy_run")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def same(first: object, second: object) -> bool:
    """Bitwise equality of nested states."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict) and list(first) == list(second) and all(same(first[k], second[k]) for k in first)
        )
    if isinstance(first, list | tuple):
        return isinstance(second, type(first)) and len(first) == len(second) and all(map(same, first, second))
    return first == second


def rows_without_seconds(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open() as file:
        return [
            [value for name, value in row.items() if name != "seconds"] for row in _with_header(csv.DictReader(file))
        ]


def _with_header(reader: csv.DictReader):
    yield {name: name for name in reader.fieldnames}
    yield from reader


@pytest.fixture(scope="session")
def differences():
    """What differs between the finished runs in two folders, as names; nothing but wall-clock time may."""

    def compare(first: Path, second: Path) -> list[str]:
        found = []
        for name in ("last.ckpt", "best.ckpt"):
            one, other = checkpoint(first / "checkpoints" / name), checkpoint(second / "checkpoints" / name)
            for state in (one, other):
                for callback, values in state["callbacks"].items():
                    if callback == "RunCheckpoint":
                        del values["log"]["seconds"]
                    if callback.startswith("EarlyStopping"):
                        values["stopped_epoch"] = 0
                del state["loops"]
            found += [f"{name}:{key}" for key in {*one, *other} if not same(one.get(key), other.get(key))]
        if rows_without_seconds(first) != rows_without_seconds(second):
            found.append("metrics.csv")
        if leftovers := [path.name for path in (second / "checkpoints").iterdir() if path.name.startswith(".")]:
            found.append(f"left behind: {leftovers}")
        return found

    return compare

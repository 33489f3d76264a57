"""How two runs are compared."""

import importlib.util
from pathlib import Path

import pytest

COMPARISON = Path(__file__).parents[2] / "scripts" / "faults" / "comparison.py"


@pytest.fixture(scope="session")
def differences():
    """What differs between the finished runs in two folders; nothing but wall-clock time may."""
    spec = importlib.util.spec_from_file_location("comparison", COMPARISON)
    comparison = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(comparison)

    def compare(first: Path, second: Path) -> list[str]:
        return comparison.differences(first, second)

    compare.events = comparison.events
    return compare

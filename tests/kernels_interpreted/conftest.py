"""These tests run the Triton kernels on CPU tensors, in Triton's interpreter.

A kernel is bound to the interpreter when it is imported, so they need a process of their own:
TRITON_INTERPRET=1 python -m pytest tests/kernels_interpreted
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# A run over all tests leaves this folder out.
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


def pytest_configure(config):
    if not INTERPRETED and any("kernels_interpreted" in argument for argument in config.args):
        raise pytest.UsageError("run these tests with TRITON_INTERPRET=1 set: they need Triton's interpreter")


@pytest.fixture
def filled_memory():
    """Memory that is allocated holds NaN until something is written there."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)

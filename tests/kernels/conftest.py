"""The device that the tests of an operation run on.

A module that says `pytestmark = pytest.mark.usefixtures("device")` runs on the CPU and, where there is one, on a CUDA
GPU: `pytest -m cuda tests/kernels` runs the latter alone. Its tests create their tensors on torch's default device;
those marked cpu_only stay on the CPU.
"""

import pytest
import torch


def pytest_configure(config):
    config.addinivalue_line("markers", "cpu_only: of the CPU backend, or with tensors made at import")
    config.addinivalue_line("markers", "cuda: on a CUDA GPU")


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames and torch.cuda.is_available():
        on_cpu = metafunc.definition.get_closest_marker("cpu_only")
        cuda = pytest.param("cuda", marks=pytest.mark.cuda)
        metafunc.parametrize("device", ["cpu"] if on_cpu else ["cpu", cuda], indirect=True)


@pytest.fixture
def rounding():
    """By how much results of one computation may differ: on a GPU each layout of memory has a kernel of its own."""
    return 0 if torch.get_default_device().type == "cpu" else 1e-5


@pytest.fixture
def device(request):
    name = getattr(request, "param", "cpu")
    if name == "cpu":
        yield name
        return
    torch.set_default_device(name)
    try:
        yield name
    finally:
        torch.set_default_device(None)

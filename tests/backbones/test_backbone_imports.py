"""`import mambarium.backbones` works on a machine that has torch and numpy only."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.thorough

WITHOUT_OTHERS = """
import sys

class Absent:
    names = {"triton", "numba", "lightning", "jsonargparse", "torchvision", "torchmetrics", "yaml"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import torch
from mambarium.backbones import from_variant

with torch.device("meta"):
    from_variant("mambaout_femto")
"""


def test_import_needs_torch_and_numpy_only() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT_OTHERS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

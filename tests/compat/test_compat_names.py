"""Which modules `mambarium.compat` serves; in processes of their own, since imports can't be undone."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.thorough

ABSENT = """
import importlib.util, sys
import mambarium.compat
from mambarium.compat import install
from mambarium.kernels import selective_state_update as ours
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, mamba_inner_ref
from mamba_ssm.ops.selective_scan_interface import bimamba_inner_fn, mamba_inner_fn_no_out_proj
from mamba_ssm.ops.triton.selective_state_update import selective_state_update, selective_state_update_ref
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm import RMSNorm as OldName
assert OldName is RMSNorm
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref, causal_conv1d_update_ref
import mamba_ssm.ops.selective_scan_interface as interface
import mamba_ssm
import selective_scan_cuda_oflex
assert interface is mamba_ssm.ops.selective_scan_interface and interface.selective_scan_fn is selective_scan_fn
assert selective_state_update is ours
assert importlib.util.find_spec("causal_conv1d").origin == "mambarium.compat"
import causal_conv1d_cuda, selective_scan_cuda, selective_scan_cuda_core
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
from causal_conv1d.cpp_functions import causal_conv1d_fwd_function, causal_conv1d_bwd_function
from mamba_ssm import Mamba
from mamba_ssm.modules.mamba_simple import Mamba as again
assert again is Mamba
assert install() == install(replace=True)
try:
    import mamba_ssm.modules.mamba2
except ModuleNotFoundError as error:
    assert "mamba2 of mamba_ssm.modules is not served by mambarium.compat, which serves " in str(error), error
else:
    raise AssertionError("what is not served must be missing")
assert "numba" not in sys.modules, "imports must stay light"
"""

WITHOUT_CUDA = """
import sys
sys.path.insert(0, {folder!r})
import mambarium.compat
import causal_conv1d
from mamba_ssm.modules.mamba_simple import selective_scan_fn, selective_scan_cuda
from mambarium.compat.selective_scan_interface import selective_scan_fn as ours
assert selective_scan_fn is ours and selective_scan_cuda.__spec__.origin == "mambarium.compat"
assert causal_conv1d.causal_conv1d_fn is mambarium.compat.causal_conv.causal_conv1d_fn
import mamba_ssm
assert mamba_ssm.__file__.startswith({folder!r}), "what a package has beside the operations stays its own"
"""

WITH_CUDA = """
import sys, torch
torch.cuda.is_available = lambda: True
sys.path.insert(0, {folder!r})
import mambarium.compat
import causal_conv1d
assert causal_conv1d.causal_conv1d_fn == "theirs"
from mamba_ssm.ops.triton.layer_norm import RMSNorm
assert RMSNorm == "theirs"
import selective_scan_cuda
assert selective_scan_cuda.__spec__.origin == "mambarium.compat", "an extension that was not compiled is ours"
try:
    mambarium.compat.install(replace=True)
except RuntimeError as error:
    assert "causal_conv1d" in str(error) and "before" in str(error)
else:
    raise AssertionError("too late to replace")
"""

REPLACED = """
import sys
sys.path.insert(0, {folder!r})
from mambarium.compat import install
install(replace=True)
from mamba_ssm.modules.mamba_simple import selective_scan_fn
from mambarium.compat.selective_scan_interface import selective_scan_fn as ours
assert selective_scan_fn is ours
import mamba_ssm
assert mamba_ssm.__file__.startswith({folder!r})
"""


def run_python(code):
    environment = {**os.environ, "MAMBARIUM_BACKEND": ""}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr


def other_packages(folder):
    """Packages with the names of the real ones."""
    files = {
        "causal_conv1d/__init__.py": "causal_conv1d_fn = 'theirs'",
        "mamba_ssm/__init__.py": "import mamba_ssm.modules.mamba_simple",
        "mamba_ssm/modules/__init__.py": "",
        "mamba_ssm/modules/mamba_simple.py": "import selective_scan_cuda\n"
        "from mamba_ssm.ops.selective_scan_interface import selective_scan_fn",
        "mamba_ssm/ops/__init__.py": "",
        "mamba_ssm/ops/selective_scan_interface.py": "selective_scan_fn = 'theirs'",
        "mamba_ssm/ops/triton/__init__.py": "",
        "mamba_ssm/ops/triton/layer_norm.py": "RMSNorm = 'theirs'",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    return str(folder)


def test_absent_packages_are_served():
    run_python(ABSENT)


def test_without_a_cuda_device_the_operations_of_packages_that_are_there_are_ours(tmp_path):
    run_python(WITHOUT_CUDA.format(folder=other_packages(tmp_path)))


def test_with_a_cuda_device_packages_that_are_there_stay_and_find_an_extension(tmp_path):
    run_python(WITH_CUDA.format(folder=other_packages(tmp_path)))


def test_operations_of_packages_that_are_there_are_replaced_when_asked(tmp_path):
    run_python(REPLACED.format(folder=other_packages(tmp_path)))

import os
import subprocess
import sys

import pytest
import torch

from mambarium.kernels import causal_conv1d, selective_scan, selective_state_update, warm_up
from mambarium.kernels.backend import choose_backend, load_backend

pytestmark = pytest.mark.thorough

WITHOUT_PACKAGE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in {names} else found(name, *a)
import torch
from mambarium.kernels import selective_scan, causal_conv1d
"""

WARM_UP = "from mambarium.kernels import causal_conv1d, grid_scan, selective_scan, warm_up\n"


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_the_tensors_choose(monkeypatch):
    monkeypatch.delenv("MAMBARIUM_BACKEND", raising=False)
    assert choose_backend(None, torch.zeros(1)) == "cpu"
    assert choose_backend(None, torch.zeros(1, device="meta")) == "cpu"
    assert choose_backend(None, torch.zeros(1, dtype=torch.float64)) == "reference"
    assert choose_backend("reference", torch.zeros(1)) == "reference"


def test_the_environment_decides_for_those_who_do_not_ask(monkeypatch):
    monkeypatch.setenv("MAMBARIUM_BACKEND", "reference")
    assert choose_backend(None, torch.zeros(1)) == "reference"
    assert choose_backend("cpu", torch.zeros(1)) == "cpu"
    monkeypatch.setenv("MAMBARIUM_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"MAMBARIUM_BACKEND: .*found 'fast'"):
        choose_backend(None, torch.zeros(1))


def test_triton_takes_cpu_tensors_in_its_interpreter_only(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="'triton': expected tensors on cuda; found 'cpu'"):
        choose_backend("triton", torch.zeros(1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("triton", torch.zeros(1)) == "triton"


def test_without_numba_and_triton():
    code = WITHOUT_PACKAGE.format(names={"numba", "llvmlite", "triton"}) + (
        "x = torch.ones(1, 2, 3)\n"
        "out = selective_scan(x, x, torch.ones(2, 1), x[:, :1], x[:, :1], backend='reference')\n"
        "assert out.shape == x.shape\n"
        "m = x.to('meta')\n"
        "A = torch.ones(2, 1, device='meta', requires_grad=True)\n"
        "assert selective_scan(m, m, A, m[:, :1], m[:, :1]).shape == x.shape\n"
        "try: selective_scan(m, m, A, m[:, :1], m[:, :1], backend='triton')\n"
        "except RuntimeError as error: print(error)\n"
        "for call in (lambda: selective_scan(x, x, torch.ones(2, 1), x[:, :1], x[:, :1]),\n"
        "             lambda: causal_conv1d(x, torch.ones(2, 4))):\n"
        "    try: call()\n"
        "    except RuntimeError as error: print(error)\n"
    )
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("pip install triton") == 1 and run.stdout.count("pip install numba") == 2
    assert run.stdout.count("backend='reference'") == 3


def test_import_does_not_load_numba():
    code = "import sys, mambarium.kernels; print([m for m in ('numba', 'llvmlite') if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_unwritable_cache_folder_is_announced(tmp_path, caplog, monkeypatch):
    from mambarium.kernels import numba_runtime

    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    folder = numba_runtime._cache_folder("mambarium.kernels.scan.cpu_forward")
    assert folder.is_dir() and len(caplog.records) == 1
    assert str(blocked) in caplog.records[0].getMessage()


def test_the_cache_folder_is_keyed_by_the_sources(tmp_path, monkeypatch):
    from mambarium.kernels import numba_runtime

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    modules = ("mambarium.kernels.scan.cpu_forward", "mambarium.kernels.conv.cpu_kernels")
    folders = {numba_runtime._cache_folder(module) for module in modules}
    assert len(folders) == 2 and all(folder.parent == tmp_path / "mambarium" for folder in folders)


def test_warm_up_loads_from_the_cache_the_second_time():
    warm_up([selective_scan, causal_conv1d])
    code = WARM_UP + "print(warm_up([selective_scan, causal_conv1d], backward=False))"
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) > 0 and "compiling" not in run.stderr


def test_warm_up_compiles_what_is_asked_for():
    code = WARM_UP + (
        "import sys\n"
        "for operation, kernels in ((causal_conv1d, 'conv.cpu_kernels'), (grid_scan, 'scan.cpu_forward')):\n"
        "    print(f'mambarium.kernels.{kernels}' in sys.modules)\n"
        "    warm_up([operation], backward=False)\n"
        "    print(f'mambarium.kernels.{kernels}' in sys.modules)\n"
        "kernels = sys.modules['mambarium.kernels.scan.cpu_forward']\n"
        "print([len(entry.signatures) for entry in (kernels.forward, kernels.forward_in_order)])\n"
    )
    run = run_python(code)
    assert run.stdout.split("\n")[:-1] == ["False", "True", "False", "True", "[0, 1]"], run.stderr


def test_warm_up_refuses_what_has_no_kernels():
    with pytest.raises(ValueError, match="expected some of selective_scan, causal_conv1d, grid_scan; found"):
        warm_up([selective_state_update])


def test_forking_after_kernels_ran_does_not_hang():
    code = WARM_UP + (
        "import torch\n"
        "warm_up([causal_conv1d], backward=False)\n"
        "data = torch.utils.data.TensorDataset(torch.arange(8))\n"
        "loader = torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context='fork')\n"
        "print(sum(int(x) for (x,) in loader))\n"
        "warm_up([causal_conv1d], backward=False)\n"
    )
    run = run_python(code)
    assert run.returncode == 0 and run.stdout.strip() == "28", run.stderr


def test_a_forked_process_is_refused_with_a_reason():
    pytest.importorskip("numba")
    code = WARM_UP + (
        "import os, sys, numba\n"
        "warm_up([causal_conv1d], backward=False)\n"
        "if numba.threading_layer() != 'omp': print('use spawn'); sys.exit(7)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: warm_up([causal_conv1d], backward=False)\n"
        "    except RuntimeError as error: print(error, flush=True); os._exit(7)\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    run = run_python(code)
    assert run.returncode == 7 and "use spawn" in run.stdout, run.stderr


def test_a_process_forked_before_any_kernel_ran_may_run_them():
    code = WARM_UP + (
        "import os, sys, threading\n"
        "from mambarium.kernels import numba_runtime\n"
        "numba_runtime._calls.acquire()  # as another thread might hold it\n"
        "child = os.fork()\n"
        "if child == 0: warm_up([causal_conv1d], backward=False); os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    run = run_python(code)
    assert run.returncode == 7, run.stderr


def test_kernels_restore_numbas_threads_and_use_a_shared_memory_layer():
    import numba

    before = numba.get_num_threads()
    warm_up([causal_conv1d])
    assert numba.get_num_threads() == before
    assert numba.threading_layer() in ("omp", "tbb")


@pytest.mark.parametrize("environment", [{}, {"OMP_NUM_THREADS": "1"}], ids=str)
def test_torchs_threads_are_as_many_as_before(environment):
    code = WARM_UP + (
        "import torch\n"
        "for threads in (1, 2, 1):\n"
        "    torch.set_num_threads(threads)\n"
        "    torch.get_num_threads()\n"  # torch settles the number when it is first asked for
        "    selective_scan(torch.ones(1, 16, 8), torch.ones(1, 16, 8), -torch.ones(16, 2), *torch.ones(2, 1, 2, 8))\n"
        "    print(torch.get_num_threads())\n"
    )
    run = run_python(code, **environment)
    assert run.stdout.split() == ["1", "2", "1"], run.stderr


@pytest.mark.parametrize(("backend", "package"), [("cpu", "numba"), ("triton", "triton")])
def test_backends_fit_what_operations_ask_of_them(backend, package):
    import inspect

    pytest.importorskip(package, reason=f"{package} is not installed")

    from mambarium.kernels.conv.description import ConvBackend
    from mambarium.kernels.scan.description import ScanBackend

    for operation, offered in (("scan", ScanBackend), ("conv", ConvBackend)):
        module = load_backend(operation, backend)
        for name, function in inspect.getmembers(offered, inspect.isfunction):
            if not name.startswith("_"):
                expected = [p for p in inspect.signature(function).parameters if p != "self"]
                assert list(inspect.signature(getattr(module, name)).parameters) == expected


def test_the_ops_serve_a_causal_block_end_to_end():
    torch.manual_seed(0)
    weight = torch.randn(6, 4, requires_grad=True)
    x = torch.randn(2, 6, 30)
    mixed = causal_conv1d(x, weight, activation="silu")
    out = selective_scan(mixed, mixed, -torch.ones(6, 2), mixed[:, :2], mixed[:, 2:4], delta_softplus=True)
    out.sum().backward()
    single, weight.grad = weight.grad.clone(), None
    mixed = causal_conv1d(x, weight, activation="silu", backend="reference")
    out = selective_scan(
        mixed, mixed, -torch.ones(6, 2), mixed[:, :2], mixed[:, 2:4], delta_softplus=True, backend="reference"
    )
    out.sum().backward()
    torch.testing.assert_close(single, weight.grad, rtol=1e-4, atol=1e-5)

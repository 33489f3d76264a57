"""How compiled CPU kernels are cached, announced and run."""

import contextlib
import hashlib
import importlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_log = logging.getLogger("mambarium")
_calls = threading.Lock()
_first_process: int | None = None
_threads = 1
_scratch = torch.empty(0, dtype=torch.uint8, device="cpu")
# What a long sequence's backward takes beyond this is a small part of what its tensors take.
_MOST_KEPT_BYTES = 64 * 2**20
_announced = False
_folders: dict[str, Path] = {}


def _renew_lock() -> None:
    """Another thread may hold the lock while the process forks, and does not live on in the child."""
    global _calls
    _calls = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_renew_lock)


def import_kernels(name: str) -> ModuleType:
    """Import a module of numba kernels so that its compiled code is cached in the user's cache folder.

    The folder's name holds a hash of the kernels' sources, numba's version and the processor, so that no
    stale code is ever run: numba itself watches the file of the entry point only.

    Args:
        name: full name of the module, such as "mambarium.kernels.scan.cpu_forward".

    Returns:
        The module.
    """
    if name not in _folders:
        with _calls:
            folder = _cache_folder(name)
            with _numba_cache(folder):
                importlib.import_module(name)
            _folders[name] = folder
    return importlib.import_module(name)


def run_kernel(module: ModuleType, kernel: str, *arguments: Any, scratch_bytes: int, shared_bytes: int = 0) -> None:
    """Run a kernel on as many threads as torch uses, one kernel at a time.

    Args:
        module: a module from `import_kernels`.
        kernel: the name of an entry point, whose last argument is the address of scratch memory.
        arguments: its other arguments.
        scratch_bytes: scratch memory per thread.
        shared_bytes: scratch memory that the threads share, which comes first.

    Raises:
        RuntimeError: this process was forked from one that ran a kernel on OpenMP, whose threads it lacks.
    """
    import numba

    function = getattr(module, kernel)
    with _calls:
        if _first_process != os.getpid():
            _start_threads()
        if not function.signatures:
            _announce(module, kernel)
        threads, before = min(torch.get_num_threads(), _threads), numba.get_num_threads()
        # Numba takes a plain tuple's type from the tuple, but asks Python for that of each field of a named one.
        plain = (tuple(x) if isinstance(x, tuple) else x for x in arguments)
        if threads != before:
            numba.set_num_threads(threads)
        try:
            memory = _scratch_memory(shared_bytes + threads * scratch_bytes)
            function(*plain, memory.data_ptr())
        finally:
            if threads != before:
                numba.set_num_threads(before)


def _start_threads() -> None:
    global _first_process, _threads
    import numba

    threads = torch.get_num_threads()
    numba.get_num_threads()  # starts the threads, and may set OpenMP's count, which is torch's too
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    layer = numba.threading_layer()
    if _first_process is not None and layer == "omp":
        raise RuntimeError("the CPU kernels can't run in a forked process; use spawn")
    if layer == "workqueue":
        _log.warning("the CPU kernels run on numba's slow thread pool; install libgomp (OpenMP) or the package tbb")
    config: Any = numba.config
    _first_process, _threads = os.getpid(), config.NUMBA_NUM_THREADS


def _scratch_memory(size: int) -> torch.Tensor:
    """Return memory that is kept from one kernel to the next, as fresh pages cost many times as much, up to a size."""
    global _scratch
    if _scratch.numel() >= size:
        return _scratch
    memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    if size <= _MOST_KEPT_BYTES:
        _scratch = memory
    return memory


def _announce(module: ModuleType, kernel: str) -> None:
    """Say that compilation starts, once, if the cache lacks the kernel."""
    global _announced
    file = module.__name__.rpartition(".")[2]
    if _announced or any(_folders[module.__name__].rglob(f"{file}.{kernel}-*.nbc")):
        return
    _announced = True
    _log.warning("compiling the CPU kernels, once per machine (about 25 s) ...")


@contextlib.contextmanager
def _numba_cache(folder: Path) -> Iterator[None]:
    import numba

    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _cache_folder(name: str) -> Path:
    import llvmlite.binding as llvm
    import numba

    root = Path(__file__).parent
    operation = root / name.split(".")[2]
    digest = hashlib.sha256()
    shared = (root / "simd.py", root / "layout.py", *sorted(root.glob("cpu_*.py")))
    for source in (*shared, *sorted(operation.glob("cpu*.py"))):
        digest.update(source.read_bytes())
    digest.update(f"{numba.__version__} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}".encode())
    key = digest.hexdigest()[:16]
    try:
        base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "mambarium" / key
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder is known
        folder = Path(tempfile.mkdtemp(prefix="mambarium-"))
        _log.warning("no compiled CPU kernels can be kept: %s; using %s for this run", error, folder)
        return folder

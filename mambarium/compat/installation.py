"""Our modules under the reference packages' names, as Python's import system finds them."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch

_ORIGIN = "mambarium.compat"

# The operations under each of their names, and the module of ours whose public names it has.
_OPERATIONS = {
    "mamba_ssm.ops.selective_scan_interface": "selective_scan_interface",
    "mamba_ssm.ops.triton.selective_state_update": "state_update",
    "mamba_ssm.ops.triton.layer_norm": "layer_norm",
    "mamba_ssm.ops.triton.layernorm": "layer_norm",  # its name up to mamba_ssm 1.1, which Vim's fork keeps
    "causal_conv1d": "causal_conv",
    "causal_conv1d.causal_conv1d_interface": "causal_conv",
    "causal_conv1d.causal_conv1d_varlen": "causal_conv_varlen",
    "causal_conv1d.cpp_functions": "causal_conv_extension",
    "causal_conv1d_cuda": "causal_conv_extension",
    "selective_scan_cuda": "scan_extension",
    "selective_scan_cuda_core": "vmamba_core",
    "selective_scan_cuda_oflex": "vmamba_oflex",
}
# What a package of that name keeps for itself.
_MODULES = {"mamba_ssm": "mamba_ssm", "mamba_ssm.modules.mamba_simple": "mamba_simple"}


def install(replace: bool = False) -> list[str]:
    """Serve mamba_ssm, causal_conv1d and the extensions of mamba_ssm, causal_conv1d and VMamba by our operations.

    Packages that can't be found are served. Of packages that can be found the operations are served where theirs can't
    run, which is without a CUDA device; what else such a package has stays its own and runs on our operations. With a
    CUDA device a package whose extension was not compiled finds ours.

    Args:
        replace: whether the operations of packages that can be found are served with a CUDA device too.

    Returns:
        The names of the modules that are ours now.

    Raises:
        RuntimeError: a module to be replaced is imported already, and others may hold its functions.
    """
    replace = replace or not torch.cuda.is_available()
    names = [name for name in _OPERATIONS if replace or _is_absent(_package(name))]
    names += [name for name in _MODULES if _is_absent(_package(name))]
    imported = [name for name in names if name in sys.modules and not _is_ours(sys.modules[name])]
    if imported:
        raise RuntimeError(
            f"{', '.join(imported)}: imported already; import mambarium.compat, or call its install, before that"
        )
    absent = {package for package in map(_package, names) if _is_absent(package)}
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    sys.meta_path.insert(0, _Finder(names, absent))
    return names


class _Finder(MetaPathFinder, Loader):
    """Finds and loads the served modules, and says of the absent packages what is not served.

    Args:
        names: of the served modules.
        absent: packages of which nothing else can be found.
    """

    def __init__(self, names: Sequence[str], absent: set[str]) -> None:
        self.names, self.absent = names, absent

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a served module or of a package above one; None for what is not ours to find.

        Raises:
            ModuleNotFoundError: an absent package, of which other modules or names are served.
        """
        parts = _package(fullname) in self.absent and any(name.startswith(f"{fullname}.") for name in self.names)
        if fullname in self.names or parts:
            # All are packages: so Python asks here for a name, too, that a module lacks.
            return ModuleSpec(fullname, self, origin=_ORIGIN, is_package=True)
        if _package(fullname) not in self.absent:
            return None
        parent, _, child = fullname.rpartition(".")
        served = ", ".join(sorted(name for name in self.names if _package(name) == _package(fullname)))
        if parent in self.names:
            served = f"{', '.join(_contents(parent))} of it, and the modules {served}"
        raise ModuleNotFoundError(
            f"{child} of {parent} is not served by mambarium.compat, which serves {served}", name=parent
        )

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module."""
        module.__doc__ = "Served by mambarium.compat."
        if module.__name__ in self.names:
            vars(module).update(_contents(module.__name__))


def _contents(name: str) -> dict[str, object]:
    implementation = importlib.import_module(f"mambarium.compat.{(_OPERATIONS | _MODULES)[name]}")
    return {public: getattr(implementation, public) for public in implementation.__all__}


def _package(name: str) -> str:
    return name.partition(".")[0]


def _is_ours(module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    return spec is not None and spec.origin == _ORIGIN


def _is_absent(package: str) -> bool:
    if package in sys.modules:
        return _is_ours(sys.modules[package])
    spec = importlib.util.find_spec(package)
    return spec is None or spec.origin == _ORIGIN

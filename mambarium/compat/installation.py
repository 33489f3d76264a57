"""Modules under the reference packages' names, put where Python looks for imported modules."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_ORIGIN = "mambarium.compat"

# Every module that is served, and the one of ours whose public names it has.
_SERVED = {
    "mamba_ssm.ops.selective_scan_interface": "selective_scan_interface",
    "mamba_ssm.ops.triton.selective_state_update": "state_update",
    "mamba_ssm.ops.triton.layer_norm": "layer_norm",
    "mamba_ssm.ops.triton.layernorm": "layer_norm",  # its name up to mamba_ssm 1.1, which Vim's fork keeps
    "causal_conv1d": "causal_conv",
    "causal_conv1d.causal_conv1d_interface": "causal_conv",
    "selective_scan_cuda_oflex": "oflex",
}


def install(replace: bool = False) -> list[str]:
    """Serves the operations of mamba_ssm, causal_conv1d and VMamba's extension under their own import names.

    Args:
        replace: whether the operations of packages that can be found are replaced too. Then it must be called before
            they are imported.

    Returns:
        The names of the modules that are ours now.

    Raises:
        RuntimeError: with `replace`, a module to be replaced is imported already, and others may hold its functions.
    """
    names = [name for name in _SERVED if replace or _is_absent(name.partition(".")[0])]
    imported = [name for name in names if name in sys.modules and not _is_ours(sys.modules[name])]
    if imported:
        raise RuntimeError(
            f"{', '.join(imported)}: imported already, call mambarium.compat.install(replace=True) before that"
        )
    for name in names:
        package = name.partition(".")[0]
        if _is_absent(package):
            _serve_parents(name)
        implementation = importlib.import_module(f"mambarium.compat.{_SERVED[name]}")
        _serve(name, {public: getattr(implementation, public) for public in implementation.__all__})
    return names


def _is_ours(module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    return spec is not None and spec.origin == _ORIGIN


def _is_absent(package: str) -> bool:
    if package in sys.modules:
        return _is_ours(sys.modules[package])
    return importlib.util.find_spec(package) is None


def _serve_parents(name: str) -> None:
    """Empty packages above a module."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        parent = ".".join(parts[:end])
        if parent not in sys.modules:
            _serve(parent, {})


def _serve(name: str, contents: dict[str, object]) -> None:
    module = ModuleType(name, "Served by mambarium.compat.")
    # Without places to search, so that what we don't serve is reported as missing.
    module.__spec__ = ModuleSpec(name, None, origin=_ORIGIN, is_package=True)
    module.__path__ = []
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)

"""The one place that knows which backends there are, which operations they serve, and which one serves a call."""

import functools
import importlib
import importlib.util
import os
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch

from mambarium.private_names.torch import is_in_forward_mode

Backend = Literal["triton", "cpu", "reference"]

ENVIRONMENT_VARIABLE = "MAMBARIUM_BACKEND"

Operation = Literal["scan", "conv", "step"]


class _Kind(NamedTuple):
    """A fast backend: the package that its kernels need, and the type of device that they run on."""

    package: str
    device: str


_KINDS = {"triton": _Kind("triton", "cuda"), "cpu": _Kind("numba", "cpu")}

# The operations' kernels by backend: to add one's, its module and its line here. The grid scan is a scan with an order.
_KERNELS: dict[Operation, dict[str, str]] = {
    "scan": {"triton": "mambarium.kernels.scan.triton_backend", "cpu": "mambarium.kernels.scan.cpu"},
    "conv": {"triton": "mambarium.kernels.conv.triton_backend", "cpu": "mambarium.kernels.conv.cpu"},
    "step": {"triton": "mambarium.kernels.step.triton_backend", "cpu": "mambarium.kernels.step.cpu"},
}
# Backends whose modules import without the package.
_SHAPES_WITHOUT_PACKAGE = {"cpu"}


def choose_backend(requested: Backend | None, tensor: torch.Tensor) -> Backend:
    """Choose the backend that serves an operation on a tensor.

    An explicit request is obeyed. Without one the environment variable MAMBARIUM_BACKEND decides, and without
    that the tensor: float64 and forward-mode derivatives go to the reference, whose purpose they are, CUDA
    tensors go to Triton, CPU tensors to the numba kernels. Tensors without data (device "meta") need shapes
    only; they are given to "cpu".

    Args:
        requested: the caller's choice, or None.
        tensor: the operation's main input.

    Returns:
        The backend's name.

    Raises:
        ValueError: the name is unknown, or the backend can't serve the tensor's device or dtype, or forward-mode
            derivatives.
    """
    device = tensor.device.type
    name = requested or os.environ.get(ENVIRONMENT_VARIABLE) or None
    if name is None:
        if tensor.dtype == torch.float64 or is_in_forward_mode():
            return "reference"
        for kind, (_, its_device) in _KINDS.items():
            if device == its_device or (device == "meta" and kind == "cpu"):
                return kind  # type: ignore[return-value]  # one of Backend's names
        raise ValueError(f"no fast backend for device {device!r}: expected cuda or cpu, or backend='reference'")
    if name not in get_args(Backend):
        source = "backend" if requested else ENVIRONMENT_VARIABLE
        raise ValueError(f"{source}: expected one of {', '.join(get_args(Backend))}; found {name!r}")
    if name != "reference":
        if tensor.dtype == torch.float64:
            raise ValueError(
                f"backend {name!r} serves no float64: expected float32, bfloat16 or float16 "
                "inputs, or backend='reference'"
            )
        if is_in_forward_mode():
            raise ValueError(
                f"backend {name!r} serves no forward-mode derivatives (torch.func.jvp, jacfwd, hessian): expected "
                "backend='reference'"
            )
        if name == "cpu" and device not in ("cpu", "meta"):
            raise ValueError(f"backend 'cpu': expected tensors on the cpu; found {device!r}")
        if name == "triton" and device not in ("cuda", "meta") and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"backend 'triton': expected tensors on cuda; found {device!r} (only Triton's "
                "interpreter, TRITON_INTERPRET=1, takes cpu tensors)"
            )
    return name  # type: ignore[return-value]  # one of Backend's names, as checked above


@functools.cache
def load_backend(operation: Operation, name: str, shapes_only: bool = False) -> ModuleType:
    """Import the module of an operation's kernels.

    Args:
        operation: one that has kernels under the backend.
        name: the backend's name.
        shapes_only: the module is asked for shapes, for which "cpu" needs no package.

    Returns:
        The module, which has the functions of the operation's description.

    Raises:
        RuntimeError: the package that the backend needs is not installed.
    """
    package = _KINDS[name].package
    needed = not (shapes_only and name in _SHAPES_WITHOUT_PACKAGE)
    if needed and importlib.util.find_spec(package) is None:
        raise RuntimeError(
            f"backend {name!r} needs the package {package}, which is not installed: `pip install {package}`, "
            "or ask for the slow plain PyTorch code with backend='reference' or "
            f"{ENVIRONMENT_VARIABLE}=reference"
        )
    return importlib.import_module(_KERNELS[operation][name])

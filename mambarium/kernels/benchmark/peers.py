"""What the operations are compared with: the implementations found on this machine."""

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambarium.errors import InputError
from mambarium.kernels import causal_conv1d, selective_scan
from mambarium.kernels.benchmark.cases import CONV_WIDTH, Case, Operation
from mambarium.kernels.benchmark.torch_scan import torch_selective_scan

OURS = "mambarium"

Tensors = dict[str, Tensor]


class Peer(NamedTuple):
    """An implementation of an operation.

    `arrange` turns the canonical inputs, channel-last, into the arguments that the implementation is fastest with;
    `call` runs it on them.
    """

    operation: Operation
    name: str
    version: str
    arrange: Callable[[Tensors], Tensors]
    call: Callable[[Tensors], Tensor]


class Absent(NamedTuple):
    """An implementation that can't be compared with here, and why."""

    operation: Operation
    name: str
    reason: str


def find_peers(device: torch.device) -> tuple[list[Peer], list[Absent]]:
    """Looks for implementations that run on a device; ours come first.

    Args:
        device: a CPU or CUDA device.

    Returns:
        Those found, and those not.

    Raises:
        InputError: the package that our kernels need on the device is not installed.
    """
    ours = _our_version(device)
    plain = torch.__version__
    peers = [
        Peer("selective_scan", OURS, ours, _channel_last_views, _our_scan),
        Peer("selective_scan", "PyTorch loop", plain, dict, lambda x: torch_selective_scan(**x)),
        Peer("causal_conv1d", OURS, ours, _channel_last_views, _our_conv),
        Peer("causal_conv1d", "PyTorch conv1d", plain, _contiguous, _torch_conv),
    ]
    absent: list[Absent] = []
    others: list[tuple[Operation, str, Callable[[str], Peer], bool]] = [
        ("selective_scan", "mambapy", _mambapy, False),
        ("selective_scan", "transformers", _transformers, False),
        ("selective_scan", "mamba-ssm", _mamba_ssm, True),
        ("causal_conv1d", "causal-conv1d", _causal_conv1d, True),
    ]
    for operation, name, make, cuda_only in others:
        if cuda_only and device.type != "cuda":
            absent.append(Absent(operation, name, "runs on CUDA only"))
            continue
        try:
            peers.append(make(importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            absent.append(Absent(operation, name, "not installed"))
        except (ImportError, AttributeError) as error:
            absent.append(Absent(operation, name, f"installed, but lacks what is compared: {error}"))
    return peers, absent


def make_inputs(case: Case, device: torch.device) -> Tensors:
    """Inputs of a case, channel-last: (batch, length, dim), B and C (batch, length, d_state)."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    u = normal(case.batch, case.length, case.dim).to(case.dtype)
    if case.operation == "causal_conv1d":
        return {"x": u, "weight": 0.5 * normal(case.dim, CONV_WIDTH), "bias": normal(case.dim)}
    decays = torch.arange(1, case.d_state + 1, device=device) * (0.1 * normal(case.dim, case.d_state)).exp()
    return {
        "u": u,
        "delta": normal(case.batch, case.length, case.dim).to(case.dtype),
        "A": -decays,
        "B": normal(case.batch, case.length, case.d_state).to(case.dtype),
        "C": normal(case.batch, case.length, case.d_state).to(case.dtype),
        "D": normal(case.dim),
        "delta_bias": normal(case.dim) - 4,  # steps of about 0.03, as a Mamba has them at its start
    }


def _our_version(device: torch.device) -> str:
    package = "triton" if device.type == "cuda" else "numba"
    try:
        ours = importlib.metadata.version("mambarium")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        ours = "checkout"
    try:
        return f"{ours} ({package} {importlib.metadata.version(package)})"
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the {device.type} kernels need the package {package}: pip install {package}") from None


def _channel_last_views(inputs: Tensors) -> Tensors:
    return {name: x.transpose(1, 2) if x.dim() == 3 else x for name, x in inputs.items()}


def _contiguous(inputs: Tensors) -> Tensors:
    """Memory with adjacent positions, which the compiled kernels and torch's convolution prefer."""
    return {name: x.contiguous() for name, x in _channel_last_views(inputs).items()}


def _our_scan(x: Tensors) -> Tensor:
    return selective_scan(x["u"], x["delta"], x["A"], x["B"], x["C"], x["D"], None, x["delta_bias"], True)


def _our_conv(x: Tensors) -> Tensor:
    return causal_conv1d(x["x"], x["weight"], x["bias"], activation="silu")


def _torch_conv(x: Tensors) -> Tensor:
    value, weight = x["x"], x["weight"].to(x["x"].dtype)
    padded = F.conv1d(value, weight[:, None], x["bias"].to(value.dtype), padding=CONV_WIDTH - 1, groups=weight.shape[0])
    return F.silu(padded[..., : value.shape[2]])


def _mambapy(version: str) -> Peer:
    pscan: Any = importlib.import_module("mambapy.pscan").pscan

    def call(x: Tensors) -> Tensor:
        u, A, B, C = (x[name].float() for name in ("u", "A", "B", "C"))
        step = F.softplus(x["delta"].float() + x["delta_bias"])
        decay = torch.exp(step[..., None] * A)  # (batch, length, dim, d_state)
        states = pscan(decay, (step[..., None] * B[:, :, None]) * u[..., None])
        out: Tensor = (states @ C[..., None]).squeeze(3) + x["D"] * u
        return out.to(x["u"].dtype)

    return Peer("selective_scan", "mambapy", version, dict, call)


def _transformers(version: str) -> Peer:
    scan: Any = importlib.import_module("transformers.models.mamba.modeling_mamba").mamba_selective_scan

    def call(x: Tensors) -> Tensor:
        out: Tensor = scan(*(x[name] for name in ("u", "delta", "A", "B", "C", "D")), None, x["delta_bias"], True)
        return out

    return Peer("selective_scan", "transformers", version, _contiguous, call)


def _mamba_ssm(version: str) -> Peer:
    scan: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn

    def call(x: Tensors) -> Tensor:
        out: Tensor = scan(*(x[name] for name in ("u", "delta", "A", "B", "C", "D")), None, x["delta_bias"], True)
        return out

    return Peer("selective_scan", "mamba-ssm", version, _contiguous, call)


def _causal_conv1d(version: str) -> Peer:
    convolve: Any = importlib.import_module("causal_conv1d").causal_conv1d_fn

    def call(x: Tensors) -> Tensor:
        out: Tensor = convolve(x["x"], x["weight"], x["bias"], activation="silu")
        return out

    return Peer("causal_conv1d", "causal-conv1d", version, _contiguous, call)

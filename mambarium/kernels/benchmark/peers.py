"""What the operations are compared with: the implementations found on this machine."""

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mambarium.errors import InputError
from mambarium.kernels import CROSS, causal_conv1d, grid_scan, selective_scan, selective_state_update
from mambarium.kernels.benchmark.cases import CONV_WIDTH, ROUTES, Case, Operation
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
    """Look for implementations that run on a device; ours come first.

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
        Peer("selective_scan", "PyTorch loop", plain, dict, lambda x: torch_selective_scan(**x, chunk=None)),
        Peer("selective_scan", "PyTorch steps", plain, dict, lambda x: torch_selective_scan(**x, chunk=1)),
        Peer("grid_scan", OURS, ours, _grid_views, _our_grid_scan),
        Peer("grid_scan", "flips, copies", ours, _routes_in_their_order, _scan_of_copies),
        Peer("selective_state_update", OURS, ours, dict, _our_state_update),
        Peer("causal_conv1d", OURS, ours, _channel_last_views, _our_conv),
        Peer("causal_conv1d", "PyTorch conv1d", plain, _contiguous, _torch_conv),
    ]
    absent: list[Absent] = []
    others: list[tuple[Operation, str, Callable[[str], Peer], bool]] = [
        ("selective_scan", "mambapy", _mambapy, False),
        ("selective_scan", "transformers", _transformers, False),
        ("selective_scan", "mamba-ssm", _mamba_ssm, True),
        ("selective_state_update", "mamba-ssm", _mamba_ssm_state_update, True),
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
    """Return inputs of a case, channel-last: (batch, length, dim), B and C (batch, length, d_state).

    The grid scan's have two axes in place of length, and but for the input an axis of routes after them; the state
    update's have no length.
    """
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    if case.operation == "causal_conv1d":
        x = normal(case.batch, case.length, case.dim).to(case.dtype)
        return {"x": x, "weight": 0.5 * normal(case.dim, CONV_WIDTH), "bias": normal(case.dim)}
    positions = {
        "selective_scan": (case.batch, case.length),
        "grid_scan": (case.batch, case.side, case.side),
        "selective_state_update": (case.batch,),
    }[case.operation]
    routes = (ROUTES,) if case.operation == "grid_scan" else ()
    channels = (*routes, case.dim)
    decays = torch.arange(1, case.d_state + 1, device=device) * (0.1 * normal(*channels, case.d_state)).exp()
    inputs = {
        "u": normal(*positions, case.dim).to(case.dtype),
        "delta": normal(*positions, *channels).to(case.dtype),
        "A": -decays,
        "B": normal(*positions, *routes, case.d_state).to(case.dtype),
        "C": normal(*positions, *routes, case.d_state).to(case.dtype),
        "D": normal(*channels),
        "delta_bias": normal(*channels) - 4,  # steps of about 0.03, as a Mamba has them at its start
    }
    if case.operation == "selective_state_update":
        inputs["state"] = normal(case.batch, case.dim, case.d_state)
    return inputs


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


def _grid_views(inputs: Tensors) -> Tensors:
    """Return views with channels before the grid's axes, and routes before the channels."""
    orders = {4: (0, 3, 1, 2), 5: (0, 3, 4, 1, 2)}
    return {name: x.permute(orders[x.dim()]) if x.dim() in orders else x for name, x in inputs.items()}


def _routes_in_their_order(inputs: Tensors) -> Tensors:
    """Return what the scan of copied routes takes: the projections in each route's order, positions adjacent.

    VMamba computes them from the copied routes, so that they need no copies of their own.
    """
    views = _grid_views(inputs)
    return {name: _in_routes_order(x) if x.dim() == 5 else x.contiguous() for name, x in views.items()}


def _in_routes_order(x: Tensor) -> Tensor:
    """(batch, routes, n, height, width) to (batch, routes, n, length), each route of CROSS in its own order."""
    rows, columns = x.flatten(3), x.mT.flatten(3)
    return torch.stack([rows[:, 0], columns[:, 1], rows[:, 2].flip(-1), columns[:, 3].flip(-1)], 1)


def _our_grid_scan(x: Tensors) -> Tensor:
    return grid_scan(x["u"], x["delta"], x["A"], x["B"], x["C"], x["D"], x["delta_bias"], True, routes=CROSS)


def _scan_of_copies(x: Tensors) -> Tensor:
    """VMamba's cross-scan and cross-merge as published, around our own selective scan."""
    batch, dim, height, width = x["u"].shape
    both = torch.stack([x["u"].flatten(2), x["u"].mT.flatten(2)], 1)
    routes = torch.cat([both, both.flip(-1)], 1)  # (batch, routes, dim, length)
    u, delta = routes.flatten(1, 2), x["delta"].flatten(1, 2)
    A, D, bias = (x[name].flatten(0, 1) for name in ("A", "D", "delta_bias"))
    out = selective_scan(u, delta, A, x["B"], x["C"], D, None, bias, True).view(batch, ROUTES, dim, -1)
    out = out[:, :2] + out[:, 2:].flip(-1)
    return out[:, 0].view(batch, dim, height, width) + out[:, 1].view(batch, dim, width, height).mT


def _our_state_update(x: Tensors) -> Tensor:
    return selective_state_update(
        x["state"], x["u"], x["delta"], x["A"], x["B"], x["C"], x["D"], None, x["delta_bias"], True
    )


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


def _mamba_ssm_state_update(version: str) -> Peer:
    update: Any = importlib.import_module("mamba_ssm.ops.triton.selective_state_update").selective_state_update

    def call(x: Tensors) -> Tensor:
        arguments = (x[name] for name in ("state", "u", "delta", "A", "B", "C", "D"))
        out: Tensor = update(*arguments, None, x["delta_bias"], True)
        return out

    return Peer("selective_state_update", "mamba-ssm", version, dict, call)


def _causal_conv1d(version: str) -> Peer:
    convolve: Any = importlib.import_module("causal_conv1d").causal_conv1d_fn

    def call(x: Tensors) -> Tensor:
        out: Tensor = convolve(x["x"], x["weight"], x["bias"], activation="silu")
        return out

    return Peer("causal_conv1d", "causal-conv1d", version, _contiguous, call)

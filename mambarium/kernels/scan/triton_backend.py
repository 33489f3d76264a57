"""The selective scan on a GPU, by Triton kernels."""

import torch
from torch import Tensor

from mambarium.kernels.scan import triton_launches
from mambarium.kernels.scan.triton_launches import Scan, copied_as, run_backward, run_forward


def checkpoint_shape(batch: int, length: int, dim: int, d_state: int, groups: int) -> tuple[int, ...]:
    """See `mambarium.kernels.scan.interface.ScanBackend`."""
    return triton_launches.checkpoint_shape(batch, length, dim, d_state)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    save_for_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scans; see `mambarium.kernels.scan.interface.ScanBackend`."""
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)
    out = torch.empty_like(u)
    last_state, checkpoints = run_forward(scan, out, save_for_backward)
    return out, last_state, checkpoints


def scan_backward(
    grad_out: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    checkpoints: Tensor,
) -> tuple[
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
]:
    """Gradients of all inputs; see `mambarium.kernels.scan.interface.ScanBackend`."""
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)
    grads = run_backward(scan, grad_out, grad_last_state, checkpoints, torch.empty_like(u))
    return (
        grads.u,
        grads.delta,
        torch.empty_like(A).copy_(grads.A),
        torch.empty_like(B).copy_(grads.B),
        torch.empty_like(C).copy_(grads.C),
        copied_as(D, grads.D),
        grads.z,
        copied_as(delta_bias, grads.delta_bias),
        copied_as(initial_state, grads.initial_state),
    )

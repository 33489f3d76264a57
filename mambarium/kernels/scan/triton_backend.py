"""The selective scan on a GPU, by Triton kernels.

With an order every group reads u, delta and the gradient of the output where they lie, and writes there too; no copies
of them are made. B and C are read in place by the forward; the backward copies them into the tiles that it visits. Each
group's output is written in float32, as is its share of the gradient of a u that all groups share; a second stage adds
them up in a fixed order.
"""

import torch
from torch import Tensor

from mambarium.kernels.scan.description import Gradients, Scan
from mambarium.kernels.scan.triton_launches import checkpoint_shape, run_backward, run_forward

__all__ = ["checkpoint_shape", "scan_backward", "scan_forward"]


def scan_forward(scan: Scan, out: Tensor, save_for_backward: bool) -> tuple[Tensor, Tensor]:
    """Scan, see `ScanBackend`."""
    if scan.order is None:
        return run_forward(scan, out, save_for_backward)
    parts = torch.empty(scan.delta.shape, dtype=torch.float32, device=scan.u.device)  # (batch, length, groups, dim)
    states = run_forward(scan, parts, save_for_backward)
    out.copy_(parts.sum(2))
    return states


def scan_backward(
    scan: Scan, grad_out: Tensor, grad_last_state: Tensor | None, checkpoints: Tensor, gradients: Gradients
) -> None:
    """Write the gradients of all inputs, see `ScanBackend`."""
    if scan.order is None:
        run_backward(scan, grad_out, grad_last_state, checkpoints, gradients)
        return
    shared = gradients.u
    if shared.shape[2] < scan.B.shape[2]:
        parts = torch.empty(scan.delta.shape, dtype=torch.float32, device=scan.u.device)
        gradients = gradients._replace(u=parts)
    run_backward(scan, grad_out.unsqueeze(2), grad_last_state, checkpoints, gradients)
    if gradients.u is not shared:
        shared.copy_(gradients.u.sum(2, keepdim=True))

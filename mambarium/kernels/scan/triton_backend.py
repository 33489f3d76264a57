"""The selective scan on a GPU, by Triton kernels.

With an order every group reads u, delta and the gradient of the output where they lie, and writes there too; no copies
of them are made. B and C are read in place by the forward; the backward copies them into the tiles that it visits. Each
group's output is written in float32, as is its share of the gradient of a u that all groups share; a second stage adds
them up in a fixed order.
"""

import torch
from torch import Tensor

from mambarium.kernels.scan.description import Gradients, Scan
from mambarium.kernels.scan.triton_launches import checkpoint_shape, copied_as, run_backward, run_forward

__all__ = ["checkpoint_shape", "scan_backward", "scan_forward"]


def scan_forward(scan: Scan, save_for_backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Scan, see `ScanBackend`."""
    if scan.order is None:
        out = torch.empty_like(scan.u)
        return out, *run_forward(scan, out, save_for_backward)
    parts = torch.empty(scan.delta.shape, dtype=torch.float32, device=scan.u.device)  # (batch, length, groups, dim)
    states = run_forward(scan, parts, save_for_backward)
    return parts.sum(2), *states


def scan_backward(scan: Scan, grad_out: Tensor, grad_last_state: Tensor | None, checkpoints: Tensor) -> Gradients:
    """Compute the gradients of all inputs, see `ScanBackend`."""
    if scan.order is None:
        grads = run_backward(scan, grad_out, grad_last_state, checkpoints, torch.empty_like(scan.u))
    else:
        own = scan.u.shape[2] == scan.B.shape[2]
        parts = torch.empty(scan.delta.shape, dtype=scan.u.dtype if own else torch.float32, device=scan.u.device)
        grads = run_backward(scan, grad_out.unsqueeze(2), grad_last_state, checkpoints, parts)
        if not own:
            grads = grads._replace(u=grads.u.sum(2, keepdim=True))
    return grads._replace(
        A=torch.empty_like(scan.A).copy_(grads.A),
        B=torch.empty_like(scan.B).copy_(grads.B),
        C=torch.empty_like(scan.C).copy_(grads.C),
        D=copied_as(scan.D, grads.D),
        delta_bias=copied_as(scan.delta_bias, grads.delta_bias),
        initial_state=copied_as(scan.initial_state, grads.initial_state),
    )

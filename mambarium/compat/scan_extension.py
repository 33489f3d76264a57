"""The functions of `selective_scan_cuda`, the extension that official code calls from its own autograd.

The backward computes the scan once more: what is handed to it, of the extension's shapes, has no room for our
checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mambarium.compat.selective_scan_interface import selective_scan_fn

__all__ = ["bwd", "fwd"]


def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, ...]:
    """Return the scan's output without the gate, its last state, and with z the gated output.

    Args:
        u: (batch, dim, length).
        delta: (batch, dim, length).
        A: (dim, d_state), real or complex.
        B: as in `selective_scan`.
        C: as B.
        D: (dim,), or None.
        z: gate, (batch, dim, length), or None.
        delta_bias: (dim,), or None.
        delta_softplus: whether the step is softplus of delta + delta_bias.

    Returns:
        out (batch, dim, length); x (batch, dim, 1, 2 * d_state), whose odd places hold the last state; with z a third
        of out's shape.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit.
    """
    out, last_state = selective_scan_fn(u, delta, A, B, C, D, None, delta_bias, delta_softplus, True)
    x = torch.stack([torch.zeros_like(last_state), last_state], dim=-1).flatten(-2).unsqueeze(2)
    if z is None:
        return out, x
    return out, x, (out.float() * F.silu(z.float())).to(out.dtype)


def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor | None,
    out: Tensor | None,
    dz: Tensor | None,
    delta_softplus: bool,
    recompute_out_z: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of u, delta, A, B, C, D, delta_bias and z, and the gated output if asked for.

    Arguments as in `fwd`. dout: the gradient of the gated output, or of the output without z; x, out: what `fwd`
    returned, without effect; dz: memory for the gradient of z, or None.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit.
    """
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    leaves = [None if value is None else value.detach().requires_grad_() for value in inputs]
    with torch.enable_grad():
        gated = selective_scan_fn(*leaves, delta_softplus)  # type: ignore[arg-type, call-arg]  # the eight above
    assert isinstance(gated, Tensor)  # without a last state
    found = iter(torch.autograd.grad(gated, [leaf for leaf in leaves if leaf is not None], dout))
    *grads, grad_z, grad_bias = (None if leaf is None else next(found) for leaf in leaves)
    results = [*grads, grad_bias]
    if grad_z is not None:
        results.append(grad_z if dz is None else dz.copy_(grad_z))
    if recompute_out_z:
        results.append(gated.detach())
    return tuple(results)

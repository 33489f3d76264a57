"""The functions of `mamba_ssm.ops.selective_scan_interface`, and those that Vim's fork adds to them.

Arguments, shapes and results are theirs; gradients flow through the last state too. Complex A is served by the
reference backend.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from mambarium.kernels import causal_conv1d, selective_scan
from mambarium.kernels.backend import Backend

__all__ = [
    "bimamba_inner_fn",
    "bimamba_inner_ref",
    "mamba_inner_fn",
    "mamba_inner_fn_no_out_proj",
    "mamba_inner_ref",
    "selective_scan_fn",
    "selective_scan_ref",
]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mambarium.kernels.selective_scan`, which describes the arguments."""
    backend: Backend | None = "reference" if A.is_complex() else None
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend=backend)


selective_scan_ref = partial(selective_scan, backend="reference")


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Mamba's block between its input projection and its end (Gu and Dao, 2023, figure 3).

    Args:
        xz: (batch, 2 * dim, length), what the convolution reads and the gate.
        conv1d_weight: (dim, 1, width).
        conv1d_bias: (dim,).
        x_proj_weight: (rank + d_state for each of B and C that is None, dim).
        delta_proj_weight: (dim, rank).
        out_proj_weight: (width, dim).
        out_proj_bias: (width,).
        A: (dim, d_state).
        B: constant (dim, d_state), or None to select it from the input.
        C: as B.
        D: (dim,).
        delta_bias: (dim,).
        B_proj_bias: (d_state,), added to a selected B.
        C_proj_bias: as B_proj_bias.
        delta_softplus: whether the step is softplus of delta + delta_bias.
        checkpoint_lvl: without effect: what is kept for the backward is our operations' choice.
        b_rms_weight: (d_state,), a root mean square norm of the selected B.
        c_rms_weight: as b_rms_weight.
        dt_rms_weight: (dim,), the same of delta.
        b_c_dt_rms_eps: of those norms.

    Returns:
        (batch, length, width).
    """
    convolved, selected, z = _select(xz, conv1d_weight, conv1d_bias, x_proj_weight)
    rest = (B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    norms = (b_rms_weight, c_rms_weight, dt_rms_weight)
    scanned = _scan(convolved, selected, z, delta_proj_weight, A, *rest, norms=norms, eps=b_c_dt_rms_eps)
    return F.linear(scanned.transpose(1, 2), out_proj_weight, out_proj_bias)


# Theirs is made of the fast operations too, one by one, as all of ours is.
mamba_inner_ref = mamba_inner_fn


def mamba_inner_fn_no_out_proj(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` before its output projection: (batch, dim, length)."""
    convolved, selected, z = _select(xz, conv1d_weight, conv1d_bias, x_proj_weight)
    rest = (B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    return _scan(convolved, selected, z, delta_proj_weight, A, *rest)


def bimamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    A_b: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """`mamba_inner_fn` whose scan runs both ways, backwards with A_b, and adds up (Vim's bimamba_type "v1")."""
    convolved, selected, z = _select(xz, conv1d_weight, conv1d_bias, x_proj_weight)
    rest = (B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    forwards = _scan(convolved, selected, z, delta_proj_weight, A, *rest)
    both = forwards + _scan(convolved, selected, z, delta_proj_weight, A_b, *rest, reverse=True)
    return F.linear(both.transpose(1, 2), out_proj_weight, out_proj_bias)


bimamba_inner_ref = bimamba_inner_fn


def _select(
    xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the convolved input (batch, dim, length), what is selected from it (batch, length, ...), and the gate."""
    x, z = xz.chunk(2, dim=1)
    convolved = causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    return convolved, F.linear(convolved.transpose(1, 2), x_proj_weight), z


def _scan(
    convolved: Tensor,
    selected: Tensor,
    z: Tensor,
    delta_proj_weight: Tensor,
    A: Tensor,
    B: Tensor | None,
    C: Tensor | None,
    D: Tensor | None,
    delta_bias: Tensor | None,
    B_proj_bias: Tensor | None,
    C_proj_bias: Tensor | None,
    delta_softplus: bool,
    norms: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
    eps: float = 1e-6,
    reverse: bool = False,
) -> Tensor:
    """Return the scan with what is selected from its input; `norms` are of B, C and delta."""
    rank = delta_proj_weight.shape[1]
    width = A.shape[1] * (2 if A.is_complex() else 1)
    delta = _normalize(F.linear(selected[..., :rank], delta_proj_weight), norms[2], eps).transpose(1, 2)
    if B is None:
        B = _matrix(selected[..., rank : rank + width], B_proj_bias, norms[0], eps, A.is_complex())
    if C is None:
        C = _matrix(selected[..., -width:], C_proj_bias, norms[1], eps, A.is_complex())
    backend: Backend | None = "reference" if A.is_complex() else None
    return selective_scan(convolved, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse=reverse, backend=backend)


def _matrix(values: Tensor, bias: Tensor | None, weight: Tensor | None, eps: float, is_complex: bool) -> Tensor:
    """Return selected B or C: (batch, length, n) to (batch, d_state, length), pairs of complex numbers side by side."""
    if bias is not None:
        values = values + bias.to(values.dtype)
    values = _normalize(values, weight, eps)
    if is_complex:
        return values.unflatten(-1, (-1, 2)).transpose(1, 2).flatten(2)
    return values.transpose(1, 2)


def _normalize(values: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return values if weight is None else F.rms_norm(values, values.shape[-1:], weight, eps)

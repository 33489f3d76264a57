"""The public selective scan: checks, choice of the backend, canonical layout."""

import math
from typing import Literal, overload

import torch
from torch import Tensor

from mambarium.kernels.arguments import (
    HALF_OR_FLOAT,
    REAL,
    REAL_OR_COMPLEX,
    check_device,
    check_dtype,
    check_shape,
)
from mambarium.kernels.backend import Backend, choose_backend
from mambarium.kernels.scan.reference import selective_scan_reference
from mambarium.kernels.scan.registration import scan_forward
from mambarium.kernels.transforms import under_transforms


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    return_last_state: Literal[False] = ...,
    *,
    initial_state: Tensor | None = ...,
    reset: Tensor | None = ...,
    reverse: bool = ...,
    backend: Backend | None = ...,
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    *,
    return_last_state: Literal[True],
    initial_state: Tensor | None = ...,
    reset: Tensor | None = ...,
    reverse: bool = ...,
    backend: Backend | None = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    return_last_state: bool = ...,
    *,
    initial_state: Tensor | None = ...,
    reset: Tensor | None = ...,
    reverse: bool = ...,
    backend: Backend | None = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


def selective_scan(
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
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return selective scan (S6) of Mamba (Gu and Dao, 2023, arXiv 2312.00752, algorithm 2).

    With step s = softplus(delta + delta_bias), for each channel and state

        h[t] = exp(s[t] * A) * h[t - 1] + s[t] * B[t] * u[t]
        y[t] = sum over states of h[t] * C[t] + D * u[t],        out = y * silu(z)

    The arguments are those of mamba_ssm's `selective_scan_fn`, and more. Strides are free: memory is read and
    written in place, but that of B and C in the backward on a GPU and of half precision on a CPU. Computed in
    float32 whatever the inputs' dtypes (under autocast too), deterministic run to run. float64 is served by the
    reference, as is complex A. Under `torch.utils.flop_counter` the forward counts 9 * batch * length * dim *
    d_state, plus batch * length * dim each for D and z, and the backward twice that.

    Args:
        u: input, (batch, dim, length).
        delta: step before bias and softplus, (batch, dim, length).
        A: (dim, d_state). Complex: reference backend only.
        B: (batch, d_state, length) or (batch, groups, d_state, length); dim must be a multiple of groups, and
            channel c belongs to group c // (dim // groups). Or constant, (dim, d_state): every channel is then a
            group, which the fast backends serve many times slower than a few groups.
        C: as B, with groups of its own.
        D: skip weight, (dim,).
        z: gate, (batch, dim, length).
        delta_bias: (dim,).
        delta_softplus: whether the step is softplus of delta + delta_bias, or the sum itself.
        return_last_state: whether the state after the last position visited is returned too.
        initial_state: the state before the first position visited, (batch, dim, d_state); zeros if None.
        reset: (batch, length) bool; the state is set to zero before each position where it is true is
            visited (document boundaries).
        reverse: whether the positions are visited from the last to the first. Then t - 1 reads t + 1 above, and
            first and last position are those in the order of the visits. No copies of u, delta and z are made for it.
        backend: "triton", "cpu" or "reference"; None chooses by MAMBARIUM_BACKEND, else by the tensors.

    Returns:
        out (batch, dim, length) of u's dtype and memory layout, or (out, last_state) with last_state
        (batch, dim, d_state) float32 (reference: of the dtype it computes in). Both are differentiable, once and
        in reverse mode; through the reference any number of times, and forward mode is always its work.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit, or the backend does not serve it.
        RuntimeError: the backend's package is not installed.
    """
    name = choose_backend(backend, u)
    check_scan_arguments(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, name)
    if name == "reference":
        out, last_state = selective_scan_reference(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, reset, reverse
        )
        return (out, last_state) if return_last_state else out

    groups = math.lcm(_groups(B), _groups(C))
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    # What a transform of torch.func does outside the innermost one isn't seen at the tensors.
    needs_gradient = under_transforms() or (
        torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    )
    out, last_state, _ = scan_forward(
        u,
        delta,
        A.float(),
        _with_groups(B, groups, u),
        _with_groups(C, groups, u),
        None if D is None else D.float(),
        z,
        None if delta_bias is None else delta_bias.float(),
        None if initial_state is None else initial_state.float(),
        reset,
        delta_softplus,
        reverse,
        needs_gradient,
        name,
    )
    return (out, last_state) if return_last_state else out


def _groups(B: Tensor) -> int:
    return {2: B.shape[0], 3: 1, 4: B.shape[1]}[B.dim()]


def _with_groups(B: Tensor, groups: int, u: Tensor) -> Tensor:
    """B as (batch, [groups,] d_state, length), a view unless several groups are to be several times as many."""
    if B.dim() == 2:
        return B[..., None].expand(u.shape[0], -1, -1, u.shape[2])
    if B.dim() == 3:
        if groups == 1:
            return B
        B = B.unsqueeze(1)
    if B.shape[1] == groups:
        return B
    return B.unsqueeze(2).expand(-1, -1, groups // B.shape[1], -1, -1).flatten(1, 2)


def check_scan_arguments(
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
    backend: Backend,
) -> None:
    """Raise ValueError, naming argument, expected and found, unless `selective_scan`'s arguments fit each other."""
    if u.dim() != 3:
        raise ValueError(f"u: expected shape (batch, dim, length); found {tuple(u.shape)}")
    batch, dim, length = u.shape
    if u.numel() == 0:
        raise ValueError(f"u: expected at least one sequence, channel and position; found shape {tuple(u.shape)}")
    if A.dim() != 2 or A.shape[0] != dim or A.shape[1] < 1:
        raise ValueError(f"A: expected shape (dim, d_state) with dim = {dim}; found {tuple(A.shape)}")
    d_state = A.shape[1]
    if backend != "reference" and A.is_complex():
        raise ValueError(
            f"A: backend {backend!r} expects real numbers; found {A.dtype}, which only backend='reference' serves"
        )
    for name, tensor in (("B", B), ("C", C)):
        _check_matrix(name, tensor, batch, dim, length, A)

    rows = REAL if backend == "reference" else HALF_OR_FLOAT
    states = REAL_OR_COMPLEX if A.is_complex() else REAL
    matrices = REAL_OR_COMPLEX if A.is_complex() else rows
    check_shape("delta", delta, (batch, dim, length), "(batch, dim, length)")
    optional = (
        ("D", D, (dim,), "(dim,)", REAL),
        ("z", z, (batch, dim, length), "(batch, dim, length)", rows),
        ("delta_bias", delta_bias, (dim,), "(dim,)", REAL),
        ("initial_state", initial_state, (batch, dim, d_state), "(batch, dim, d_state)", states),
        ("reset", reset, (batch, length), "(batch, length)", (torch.bool,)),
    )
    for name, value, shape, meaning, dtypes in optional:
        if value is not None:
            check_shape(name, value, shape, meaning)
            check_device(name, value, u.device)
            check_dtype(name, value, dtypes)
    required = (("u", u, rows), ("delta", delta, rows), ("A", A, states), ("B", B, matrices), ("C", C, matrices))
    for name, tensor, dtypes in required:
        check_device(name, tensor, u.device)
        check_dtype(name, tensor, dtypes)


def _check_matrix(name: str, B: Tensor, batch: int, dim: int, length: int, A: Tensor) -> None:
    d_state = A.shape[1]
    if B.dim() == 2:
        check_shape(name, B, (dim, d_state), "(dim, d_state)")
        return
    if A.is_complex() and not B.is_complex():
        length = 2 * length
    if B.dim() == 3:
        check_shape(name, B, (batch, d_state, length), "(batch, d_state, length)")
        return
    if B.dim() != 4:
        raise ValueError(
            f"{name}: expected shape (batch, d_state, length), (batch, groups, d_state, length) or (dim, d_state); "
            f"found {tuple(B.shape)}"
        )
    groups = B.shape[1]
    check_shape(name, B, (batch, groups, d_state, length), "(batch, groups, d_state, length)")
    if groups < 1 or dim % groups:
        raise ValueError(f"{name}: expected groups that divide dim = {dim}; found {groups} groups")

"""The public step of the selective scan: checks, choice of the backend, canonical shapes; its operation of torch."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.arguments import HALF_OR_FLOAT, REAL, check_device, check_dtype, check_shape
from mambarium.kernels.backend import Backend, choose_backend, load_backend
from mambarium.kernels.step.reference import selective_state_update_reference
from mambarium.kernels.transforms import is_eager, under_transforms

_INDICES = (torch.int32, torch.int64)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """One step of `selective_scan` on a state that is updated in place, for generation token by token.

    The arguments are those of mamba_ssm's `selective_state_update`. Strides are free. Computed in float32 (float64
    by the reference, if x is), and rounded to the state's dtype at the end: keep states in float32. Plain autograd
    records nothing, lest decoding keep every step's graph; `selective_scan` with initial_state is differentiable, for
    one position too. Under torch.func's transforms and in forward mode the step is plain PyTorch and differentiable;
    there torch asks for a state that the transformed function was given or made, and for state_batch_indices that are
    the same for all elements of a vmap. Under `torch.utils.flop_counter` it counts
    as one position of the scan.

    Args:
        state: (batch, dim, d_state), or (batch, heads, dim, d_state) of Mamba-2; updated in place. With
            state_batch_indices its first axis may have any size.
        x: input, (batch, dim) or (batch, heads, dim).
        dt: step before bias and softplus, as x.
        A: (dim, d_state) or (heads, dim, d_state).
        B: (batch, d_state) or (batch, groups, d_state); heads must be a multiple of groups, and head h belongs to
            group h // (heads // groups).
        C: as B.
        D: skip weight, (dim,) or (heads, dim).
        z: gate, as x.
        dt_bias: as D.
        dt_softplus: whether the step is softplus of dt + dt_bias, or the sum itself.
        state_batch_indices: (batch,) of int32 or int64, the place of each batch element's state in `state`, each
            place at most once. Negative: a padding element, whose output is zero and which changes no state. A place
            beyond the states is an error on a CPU; on a GPU, where to look would mean to wait, it counts as padding.
        backend: "triton", "cpu" or "reference"; None chooses by MAMBARIUM_BACKEND, else by the state;
            float64 in it or in x is the reference's.

    Returns:
        (batch, dim) or (batch, heads, dim), as the state has heads, of x's dtype.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit, or the backend does not serve it.
        RuntimeError: the backend's package is not installed.
    """
    name = choose_backend(backend, x if x.dtype == torch.float64 else state)
    if state.dim() not in (3, 4):
        raise ValueError(
            f"state: expected shape (batch, dim, d_state) or (batch, heads, dim, d_state); found {tuple(state.shape)}"
        )
    with_heads = state.dim() == 4
    # Without heads: one of them.
    if not with_heads:
        state = state.unsqueeze(1)
    x, dt, B, C = (tensor.unsqueeze(1) if tensor.dim() == 2 else tensor for tensor in (x, dt, B, C))
    A = A.unsqueeze(0) if A.dim() == 2 else A
    z = z.unsqueeze(1) if z is not None and z.dim() == 2 else z
    D, dt_bias = (p.unsqueeze(0) if p is not None and p.dim() == 1 else p for p in (D, dt_bias))
    _check_arguments(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, name)
    arguments = (state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices)
    if under_transforms():
        out = selective_state_update_reference(*arguments)
    else:
        with torch.no_grad():
            out = (_step if is_eager(arguments) else selective_state_update_step)(*arguments, name)
    return out if with_heads else out.squeeze(1)


def _check_arguments(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state_batch_indices: Tensor | None,
    backend: Backend,
) -> None:
    entries, heads, dim, d_state = state.shape
    if state.numel() == 0 or x.shape[0] == 0:
        raise ValueError(
            "state, x: expected at least one sequence, channel and state; "
            f"found shapes {tuple(state.shape)} and {tuple(x.shape)}"
        )
    batch = entries if state_batch_indices is None else x.shape[0]
    rows = REAL if backend == "reference" else HALF_OR_FLOAT
    if B.dim() != 3 or B.shape[1] < 1 or heads % B.shape[1]:
        raise ValueError(
            f"B: expected shape (batch, d_state) or (batch, groups, d_state) with groups that divide heads = {heads}; "
            f"found {tuple(B.shape)}"
        )
    groups = B.shape[1]
    checks = (
        ("state", state, state.shape, "(batch, heads, dim, d_state)", rows),
        ("x", x, (batch, heads, dim), "(batch, heads, dim)", rows),
        ("dt", dt, (batch, heads, dim), "(batch, heads, dim)", rows),
        ("A", A, (heads, dim, d_state), "(heads, dim, d_state)", REAL),
        ("B", B, (batch, groups, d_state), "(batch, groups, d_state)", rows),
        ("C", C, (batch, groups, d_state), "(batch, groups, d_state)", rows),
        ("D", D, (heads, dim), "(heads, dim)", REAL),
        ("z", z, (batch, heads, dim), "(batch, heads, dim)", rows),
        ("dt_bias", dt_bias, (heads, dim), "(heads, dim)", REAL),
        ("state_batch_indices", state_batch_indices, (batch,), "(batch,)", _INDICES),
    )
    for name, tensor, shape, meaning, dtypes in checks:
        if tensor is not None:
            check_shape(name, tensor, shape, meaning)
            check_device(name, tensor, state.device)
            check_dtype(name, tensor, dtypes)


def _step(*arguments: Any) -> Tensor:
    """Make a step; arguments as `selective_state_update_reference`, then the backend."""
    *inputs, backend = arguments
    function: Any = selective_state_update_reference
    if backend != "reference":
        function = load_backend("step", backend).selective_state_update
    out: Tensor = function(*inputs)
    return out


selective_state_update_step = torch.library.custom_op(
    "mambarium::selective_state_update",
    _step,
    mutates_args=("state",),
    schema="(Tensor(a0!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, bool dt_softplus, Tensor? state_batch_indices, str backend) -> Tensor",
)


@selective_state_update_step.register_fake
def _(state: Tensor, x: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape)


@register_flop_formula(torch.ops.mambarium.selective_state_update)
def _(state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, *args: Any, **kwargs: Any) -> int:
    batch, heads, dim = x
    return batch * heads * dim * (9 * A[2] + (D is not None) + (z is not None))

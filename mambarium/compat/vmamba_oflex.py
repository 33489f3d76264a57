"""The functions of `selective_scan_cuda_oflex`, the extension that official VMamba code calls from its own autograd.

`x`, which the forward returns for the backward, holds our checkpoints.
"""

from torch import Tensor

from mambarium.kernels.arguments import check_shape
from mambarium.kernels.backend import Backend, choose_backend
from mambarium.kernels.scan.registration import selective_scan_backward, selective_scan_forward
from mambarium.kernels.scan.selective_scan import check_scan_arguments

__all__ = ["bwd", "fwd"]


def _backend(u: Tensor) -> Backend:
    backend = choose_backend(None, u)
    if backend == "reference":
        raise ValueError(
            "selective_scan_cuda_oflex: has the backends cpu and triton, for float32, float16 and bfloat16"
        )
    return backend


def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int,
    out_float: bool,
) -> tuple[Tensor, Tensor]:
    """Return the scan's output, float32 with `out_float`, and its checkpoints.

    Args:
        u: (batch, dim, length).
        delta: (batch, dim, length).
        A: (dim, d_state).
        B: (batch, groups, d_state, length).
        C: as B.
        D: (dim,).
        delta_bias: (dim,).
        delta_softplus: whether the step is softplus of delta + delta_bias.
        nrows: without effect.
        out_float: whether the output is float32 whatever u's dtype is.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit.
    """
    u = u.float() if out_float else u
    out, _, checkpoints = selective_scan_forward(
        *_operation_inputs(u, delta, A, B, C, D, delta_bias), delta_softplus, False, True, _backend(u)
    )
    return out, checkpoints


def bwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    dout: Tensor,
    x: Tensor,
    delta_softplus: bool,
    nrows: int,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of u, delta, A, B, C, D and delta_bias; arguments as in `fwd`, and what it returned as `x`.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit.
    """
    check_shape("dout", dout, u.shape, "(batch, dim, length)")
    inputs = _operation_inputs(u, delta, A, B, C, D, delta_bias)
    grads = selective_scan_backward(dout, None, *inputs, delta_softplus, False, x, _backend(u))
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, _, grad_bias, _ = grads
    return (
        grad_u,
        grad_delta,
        grad_A,
        grad_B,
        grad_C,
        None if D is None else grad_D,
        None if delta_bias is None else grad_bias,
    )


def _operation_inputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return the operation's first ten arguments."""
    check_scan_arguments(u, delta, A, B, C, D, None, delta_bias, None, None, _backend(u))
    check_shape("B", B, (u.shape[0], B.shape[1], A.shape[1], u.shape[2]), "(batch, groups, d_state, length)")
    check_shape("C", C, B.shape, "(batch, groups, d_state, length)")
    skip, bias = (None if vector is None else vector.float() for vector in (D, delta_bias))
    return u, delta, A.float(), B, C, skip, None, bias, None, None

"""The selective scan as operations of torch.library: fake, autograd and FLOP formula.

Under autocast the operations keep their inputs as they are: the public function hands them A, D, the
time-step bias and the states as float32, and the backends compute in float32.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.scan.interface import ScanBackend
from mambarium.kernels.transforms import differentiable, differentiable_once


def _backend(name: str, shapes_only: bool = False) -> ScanBackend:
    return cast(ScanBackend, load_backend("scan", name, shapes_only))


@torch.library.custom_op("mambarium::selective_scan_forward", mutates_args=())
def selective_scan_forward(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward of `ScanBackend.scan_forward`; channel-last shapes and results as described there."""
    return _backend(backend).scan_forward(
        u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse, save_for_backward
    )


@selective_scan_forward.register_fake
def _(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, dim = u.shape
    d_state = A.shape[1]
    shape: tuple[int, ...] = (0,)
    if save_for_backward:
        shape = _backend(backend, shapes_only=True).checkpoint_shape(batch, length, dim, d_state, B.shape[2])
    return (
        torch.empty_like(u),
        A.new_empty((batch, dim, d_state), dtype=torch.float32),
        A.new_empty(shape, dtype=torch.float32),
    )


@torch.library.custom_op("mambarium::selective_scan_backward", mutates_args=())
def selective_scan_backward(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backward of `ScanBackend.scan_backward`, with an empty tensor in place of each None."""
    grads = _backend(backend).scan_backward(
        grad_out,
        grad_last_state,
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        reset,
        delta_softplus,
        reverse,
        checkpoints,
    )
    return tuple(A.new_empty(0) if grad is None else grad for grad in grads)  # type: ignore[return-value]  # mypy can't count a tuple made by a loop


@selective_scan_backward.register_fake
def _(
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
    backend: str,
) -> tuple[Tensor, ...]:
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return tuple(A.new_empty(0) if x is None else torch.empty_like(x) for x in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    tensors, (delta_softplus, reverse, save_for_backward, backend) = inputs[:10], inputs[10:]
    if not save_for_backward:
        return
    checkpoints = output[2]
    ctx.mark_non_differentiable(checkpoints)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, checkpoints)
    ctx.delta_softplus, ctx.reverse, ctx.backend = delta_softplus, reverse, backend


def _backward(ctx: Any, grad_out: Tensor | None, grad_last_state: Tensor | None, _: None) -> tuple[Any, ...]:
    u, delta, A, B, C, D, z, delta_bias, initial_state, reset, checkpoints = ctx.saved_tensors
    if grad_out is None:
        grad_out = torch.zeros_like(u)
    if grad_last_state is None:
        grad_last_state = A.new_zeros((u.shape[0], u.shape[2], A.shape[1]))
    grads = scan_backward(
        grad_out,
        grad_last_state,
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        reset,
        ctx.delta_softplus,
        ctx.reverse,
        checkpoints,
        ctx.backend,
    )
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    present = [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]
    return (*present, None, None, None, None, None)


scan_forward = differentiable(selective_scan_forward, _backward, _setup_context)
scan_backward = differentiable_once(selective_scan_backward)


def _forward_flops(u: Any, A: Any, D: Any, z: Any) -> int:
    batch, length, dim = u
    return batch * length * dim * (9 * A[1] + (D is not None) + (z is not None))


@register_flop_formula(torch.ops.mambarium.selective_scan_forward)
def _(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, *args: Any, **kwargs: Any) -> int:
    return _forward_flops(u, A, D, z)


@register_flop_formula(torch.ops.mambarium.selective_scan_backward)
def _(
    grad_out: Any,
    grad_last_state: Any,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    *args: Any,
    **kwargs: Any,
) -> int:
    return 2 * _forward_flops(u, A, D, z)

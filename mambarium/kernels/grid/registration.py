"""The grid scan as operations of torch.library: fake, autograd and FLOP formula.

Routes are handed over as the three numbers of each, one after another. Under autocast the operations keep their
inputs as they are: the public function hands them A, D and the time-step bias as float32, and the backends compute
in float32.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.grid.interface import GridBackend
from mambarium.kernels.grid.routes import Route
from mambarium.kernels.transforms import differentiable, differentiable_once


def encode_routes(routes: Sequence[Route]) -> list[int]:
    """The routes as integers."""
    return [int(number) for route in routes for number in route]


def _decode_routes(numbers: Sequence[int]) -> tuple[Route, ...]:
    triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return tuple(Route(size, bool(by_columns), bool(backwards)) for size, by_columns, backwards in triples)


def _backend(name: str, shapes_only: bool = False) -> GridBackend:
    return cast(GridBackend, load_backend("grid", name, shapes_only))


@torch.library.custom_op("mambarium::grid_scan_forward", mutates_args=())
def grid_scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[int],
    delta_softplus: bool,
    save_for_backward: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Forward of `GridBackend.scan_forward`; channel-last shapes and results as described there."""
    return _backend(backend).scan_forward(
        u, delta, A, B, C, D, delta_bias, _decode_routes(routes), delta_softplus, save_for_backward
    )


@grid_scan_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[int],
    delta_softplus: bool,
    save_for_backward: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    batch, height, width = u.shape[:3]
    shape: tuple[int, ...] = (0,)
    if save_for_backward:
        shape = _backend(backend, shapes_only=True).checkpoint_shape(batch, height * width, *A.shape)
    return torch.empty_like(u.select(3, 0)), A.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("mambarium::grid_scan_backward", mutates_args=())
def grid_scan_backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[int],
    delta_softplus: bool,
    checkpoints: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backward of `GridBackend.scan_backward`, with an empty tensor in place of each None."""
    grads = _backend(backend).scan_backward(
        grad_out, u, delta, A, B, C, D, delta_bias, _decode_routes(routes), delta_softplus, checkpoints
    )
    return tuple(A.new_empty(0) if grad is None else grad for grad in grads)  # type: ignore[return-value]  # mypy can't count a tuple made by a loop


@grid_scan_backward.register_fake
def _(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    routes: Sequence[int],
    delta_softplus: bool,
    checkpoints: Tensor,
    backend: str,
) -> tuple[Tensor, ...]:
    inputs = (u, delta, A, B, C, D, delta_bias)
    return tuple(A.new_empty(0) if x is None else torch.empty_like(x) for x in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, (routes, delta_softplus, save_for_backward, backend) = inputs[:7], inputs[7:]
    if not save_for_backward:
        return
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])
    ctx.routes, ctx.delta_softplus, ctx.backend = routes, delta_softplus, backend


def _backward(ctx: Any, grad_out: Tensor | None, _: None) -> tuple[Any, ...]:
    *inputs, checkpoints = ctx.saved_tensors
    if grad_out is None:
        return (None,) * 11
    grads = grid_backward(grad_out, *inputs, ctx.routes, ctx.delta_softplus, checkpoints, ctx.backend)
    present = [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]
    return (*present, None, None, None, None)


grid_forward = differentiable(grid_scan_forward, _backward, _setup_context)
grid_backward = differentiable_once(grid_scan_backward)


def _forward_flops(delta: Any, A: Any, D: Any) -> int:
    batch, height, width, routes, dim = delta
    return batch * height * width * routes * dim * (9 * A[2] + (D is not None))


@register_flop_formula(torch.ops.mambarium.grid_scan_forward)
def _(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, *args: Any, **kwargs: Any) -> int:
    return _forward_flops(delta, A, D)


@register_flop_formula(torch.ops.mambarium.grid_scan_backward)
def _(grad_out: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * _forward_flops(delta, A, D)

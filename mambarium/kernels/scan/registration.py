"""The selective scan as operations of torch.library: fake, autograd and FLOP formula.

Schemas of torch.library are flat; behind them a scan is one object, `Scan`, which every backend is handed.

Under autocast the operations keep their inputs as they are: the public function hands them A, D, the time-step bias and
the states as float32, and the backends compute in float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.library import CustomOpDef
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.layout import laid_out_as
from mambarium.kernels.scan.description import Gradients, Scan, ScanBackend
from mambarium.kernels.transforms import differentiable, differentiable_once


def register_scan(
    name: str, inputs: str, describe: Callable[..., Scan]
) -> tuple[CustomOpDef, CustomOpDef, Callable[..., Any], Callable[..., Any]]:
    """Register a kind of scan as an operation and its backward, which `differentiable` is yet to bring together.

    Args:
        name: of the operations, without "_forward" and "_backward".
        inputs: their schema: those with gradients, in the order of `Gradients`, then other tensors, then options. In
            place of one axis in `Scan` there may be several: of positions, and in A, D and delta_bias of channels.
        describe: makes the `Scan` of the inputs.

    Returns:
        The forward, (inputs, save_for_backward, backend) to out, of u's dtype and layout, the last state where the
        inputs have an initial one, and the checkpoints. And the backward, (gradient of out, that of the last state,
        inputs, checkpoints, backend) to the gradients, laid out as their inputs, with an empty tensor for each that is
        None. And the code of both.
    """
    names = [part.split()[-1] for part in inputs.split(", ")]
    leaves = [field for field in names if field in Gradients._fields]
    with_state = "initial_state" in names
    states = ", Tensor grad_last_state" if with_state else ""
    results = ", ".join(["Tensor"] * (3 if with_state else 2))

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *given, save_for_backward, backend = arguments
        out, last_state, checkpoints = _backend(backend).scan_forward(describe(*given), save_for_backward)
        out = laid_out_as(out, _output_like(given[0]))
        return (out, last_state, checkpoints) if with_state else (out, checkpoints)

    def fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
        u, _, A, B, *_, save_for_backward, backend = arguments
        sizes = batch, _, dim, _, d_state = _sizes(A.shape, B.shape)
        shape = _backend(backend, shapes_only=True).checkpoint_shape(*sizes) if save_for_backward else (0,)
        checkpoints = A.new_empty(shape, dtype=torch.float32)
        if not with_state:
            return torch.empty_like(_output_like(u)), checkpoints
        return torch.empty_like(u), A.new_empty((batch, dim, d_state), dtype=torch.float32), checkpoints

    def backward(grad_out: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *given, checkpoints, backend = arguments
        grad_last_state = given.pop(0) if with_state else None
        scan = describe(*given)
        grads = _backend(backend).scan_backward(scan, grad_out.flatten(1, -2), grad_last_state, checkpoints)
        found = [getattr(grads, field) for field in leaves]
        pairs = zip(given, found, strict=False)
        return tuple(scan.A.new_empty(0) if grad is None else laid_out_as(grad, x) for x, grad in pairs)

    def fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
        given = arguments[-2 - len(names) : -2]
        return tuple(given[2].new_empty(0) if x is None else torch.empty_like(x) for x in given[: len(leaves)])

    forward_op = torch.library.custom_op(
        f"mambarium::{name}_forward",
        forward,
        mutates_args=(),
        schema=f"({inputs}, bool save_for_backward, str backend) -> ({results})",
    )
    backward_op = torch.library.custom_op(
        f"mambarium::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor grad_out{states}, {inputs}, Tensor checkpoints, str backend) "
        f"-> ({', '.join(['Tensor'] * len(leaves))})",
    )
    forward_op.register_fake(fake_forward)
    backward_op.register_fake(fake_backward)

    def flops(shapes: Sequence[Any]) -> int:
        batch, length, dim, _, d_state = _sizes(*shapes[2:4])
        extras = sum(x is not None for field, x in zip(names, shapes, strict=False) if field in ("D", "z"))
        return batch * length * dim * (9 * d_state + extras)

    @register_flop_formula(getattr(torch.ops.mambarium, f"{name}_forward"))
    def _(*arguments: Any, **_: Any) -> int:
        return flops(arguments)

    @register_flop_formula(getattr(torch.ops.mambarium, f"{name}_backward"))
    def _(*arguments: Any, **_: Any) -> int:
        return 2 * flops(arguments[2 if with_state else 1 :])

    return forward_op, backward_op, forward, backward


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what `input_gradients` needs."""
    *given, save_for_backward, backend = inputs
    if save_for_backward:
        tensors = sum(x is None or isinstance(x, Tensor) for x in given)
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given[:tensors], output[-1])
        ctx.options, ctx.backend = given[tensors:], backend


def input_gradients(ctx: Any, backward: Callable[..., Any], *incoming: Tensor | None) -> tuple[Any, ...]:
    """Return the gradients of all inputs of a forward.

    Args:
        ctx: what `save_inputs` kept.
        backward: the backward as it is to be called.
        incoming: the gradients of out, the last state, if there is one, and the checkpoints.
    """
    *given, checkpoints = ctx.saved_tensors
    given += ctx.options
    u, _, A, B = given[:4]
    grad_out, *grad_state = incoming[:-1]
    if all(grad is None for grad in (grad_out, *grad_state)):
        return (None,) * (len(given) + 2)
    if grad_out is None:
        grad_out = torch.zeros_like(u)
    if grad_state and grad_state[0] is None:
        batch, _, dim, _, d_state = _sizes(A.shape, B.shape)
        grad_state = [A.new_zeros((batch, dim, d_state))]
    grads = backward(grad_out, *grad_state, *given, checkpoints, ctx.backend)
    present = [None if x is None else grad for x, grad in zip(given, grads, strict=False)]
    return (*present, *[None] * (len(given) + 2 - len(present)))


def _backend(name: str, shapes_only: bool = False) -> ScanBackend:
    return cast(ScanBackend, load_backend("scan", name, shapes_only))


def _sizes(A: Sequence[int], B: Sequence[int]) -> tuple[int, int, int, int, int]:
    """batch, length, dim, groups, d_state, given the shapes of A and B."""
    return B[0], math.prod(B[1:-2]), math.prod(A[:-1]), B[-2], B[-1]


def _output_like(u: Tensor) -> Tensor:
    """Return a tensor of the output's shape, dtype and layout; a grid's u has an axis of routes, its third."""
    return u.select(3, 0) if u.dim() == 5 else u


selective_scan_forward, selective_scan_backward, _forward_code, _backward_code = register_scan(
    "selective_scan",
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? reset, bool delta_softplus, bool reverse",
    Scan,
)
scan_backward = differentiable_once(selective_scan_backward, _backward_code)


def _backward(ctx: Any, *incoming: Tensor | None) -> tuple[Any, ...]:
    return input_gradients(ctx, scan_backward, *incoming)


scan_forward = differentiable(selective_scan_forward, _forward_code, _backward, save_inputs)

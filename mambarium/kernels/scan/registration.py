"""The selective scan as operations of torch.library: fake, autograd and FLOP formula.

Schemas of torch.library are flat; behind them a scan is one object, `Scan`, which every backend is handed.

Under autocast the operations keep their inputs as they are: the public function hands them A, D, the time-step bias and
the states as float32, and the backends compute in float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.library import CustomOpDef
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.scan.description import Gradients, Scan, ScanBackend
from mambarium.kernels.transforms import differentiable, differentiable_once


class ScanLayout(NamedTuple):
    """How a kind of scan calls what `Scan` describes.

    Attributes:
        describe: makes the `Scan` of the inputs, all of it views of them.
        by_position: makes (batch, length, dim) of a tensor shaped as the output, a view too if `memory_like` made it.
        output_of: what u is for the output's shape, dtype and layout.
        memory_like: makes uninitialised memory of an input's shape and dtype, in the input's layout where it can be.
    """

    describe: Callable[..., Scan]
    by_position: Callable[[Tensor], Tensor]
    output_of: Callable[[Tensor], Tensor]
    memory_like: Callable[[Tensor], Tensor]


def register_scan(
    name: str, inputs: str, layout: ScanLayout
) -> tuple[CustomOpDef, CustomOpDef, Callable[..., Any], Callable[..., Any]]:
    """Register a kind of scan as an operation and its backward, which `differentiable` is yet to bring together.

    Args:
        name: of the operations, without "_forward" and "_backward".
        inputs: their schema: those with gradients, in the order of `Gradients`, then other tensors, then options. delta
            is (batch, dim, length), with B of (batch, d_state, length) or (batch, groups, d_state, length), or (batch,
            groups, dim // groups, height, width).
        layout: how `Scan` is made of them.

    Returns:
        The forward, (inputs, save_for_backward, backend) to out, of u's dtype and layout, the last state where the
        inputs have an initial one, and the checkpoints. And the backward, (gradient of out, that of the last state,
        inputs, checkpoints, backend) to the gradients, laid out as their inputs, with an empty tensor for each that is
        None. And the code of both.
    """
    names = [part.split()[-1] for part in inputs.split(", ")]
    leaves = [field for field in names if field in Gradients._fields]
    with_state = "initial_state" in names
    states = ", Tensor? grad_last_state" if with_state else ""
    results = ", ".join(["Tensor"] * (3 if with_state else 2))

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        *given, save_for_backward, backend = arguments
        out = layout.memory_like(layout.output_of(given[0]))
        scan = layout.describe(*given)
        last_state, checkpoints = _backend(backend).scan_forward(scan, layout.by_position(out), save_for_backward)
        return (out, last_state, checkpoints) if with_state else (out, checkpoints)

    def fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
        u, delta, A, B, *_, save_for_backward, backend = arguments
        batch, _, dim, _, d_state = sizes = _sizes(delta.shape, A.shape, B.shape)
        shape = _backend(backend, shapes_only=True).checkpoint_shape(*sizes) if save_for_backward else (0,)
        out = layout.memory_like(layout.output_of(u))
        checkpoints = A.new_empty(shape, dtype=torch.float32)
        if not with_state:
            return out, checkpoints
        return out, A.new_empty((batch, dim, d_state), dtype=torch.float32), checkpoints

    def backward(grad_out: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *given, checkpoints, backend = arguments
        grad_last_state = given.pop(0) if with_state else None
        memory = [None if x is None else layout.memory_like(x) for x in given[: len(leaves)]]
        described = layout.describe(*memory, *given[len(leaves) :])
        gradients = Gradients(*(getattr(described, field) for field in Gradients._fields))
        _backend(backend).scan_backward(
            layout.describe(*given), layout.by_position(grad_out), grad_last_state, checkpoints, gradients
        )
        return tuple(given[2].new_empty(0) if grad is None else grad for grad in memory)

    def fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
        given = arguments[-2 - len(names) : -2]
        return tuple(given[2].new_empty(0) if x is None else layout.memory_like(x) for x in given[: len(leaves)])

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
        extras = sum(x is not None for field, x in zip(names, shapes, strict=False) if field in ("D", "z"))
        return math.prod(shapes[1]) * (9 * shapes[2][-1] + extras)  # of delta, and d_state of A

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
    grad_out, *grad_state = incoming[:-1]
    if all(grad is None for grad in (grad_out, *grad_state)):
        return (None,) * (len(given) + 2)
    if grad_out is None:
        grad_out = torch.zeros_like(given[0])
    grads = backward(grad_out, *grad_state, *given, checkpoints, ctx.backend)
    present = [None if x is None else grad for x, grad in zip(given, grads, strict=False)]
    return (*present, *[None] * (len(given) + 2 - len(present)))


def _backend(name: str, shapes_only: bool = False) -> ScanBackend:
    return cast(ScanBackend, load_backend("scan", name, shapes_only))


def _sizes(delta: Sequence[int], A: Sequence[int], B: Sequence[int]) -> tuple[int, int, int, int, int]:
    """batch, length, dim, groups, d_state, given the shapes of delta, A and B."""
    if len(delta) == 5:
        batch, groups, group_dim, height, width = delta
        return batch, height * width, groups * group_dim, groups, A[-1]
    batch, dim, length = delta
    return batch, length, dim, B[1] if len(B) == 4 else 1, A[-1]


def _describe(
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
) -> Scan:
    """Return the scan of u, delta and z (batch, dim, length), B and C (batch, [groups,] d_state, length)."""
    return Scan(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        _by_position(B),
        _by_position(C),
        D,
        None if z is None else z.transpose(1, 2),
        delta_bias,
        initial_state,
        reset,
        delta_softplus,
        reverse,
    )


def _by_position(B: Tensor) -> Tensor:
    return B.permute(0, 3, 1, 2) if B.dim() == 4 else B.transpose(1, 2).unsqueeze(2)


selective_scan_forward, selective_scan_backward, _forward_code, _backward_code = register_scan(
    "selective_scan",
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? reset, bool delta_softplus, bool reverse",
    ScanLayout(_describe, lambda x: x.transpose(1, 2), lambda u: u, torch.empty_like),
)
scan_backward = differentiable_once(selective_scan_backward, _backward_code)


def _backward(ctx: Any, *incoming: Tensor | None) -> tuple[Any, ...]:
    return input_gradients(ctx, scan_backward, *incoming)


scan_forward = differentiable(selective_scan_forward, _forward_code, _backward, save_inputs)

"""The causal convolution as operations of torch.library: fake, autograd and FLOP formula."""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.conv.description import Conv, ConvBackend
from mambarium.kernels.transforms import differentiable, differentiable_once

_INPUTS = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, bool silu, bool reverse, "
    "str backend"
)


def _backend(name: str) -> ConvBackend:
    return cast(ConvBackend, load_backend("conv", name))


def _describe(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> Conv:
    """Return the convolution of x (batch, dim, length) and initial_states (batch, dim, width - 1)."""
    states = None if initial_states is None else initial_states.transpose(1, 2)
    return Conv(x.transpose(1, 2), weight, bias, seq_idx, states, silu, reverse)


def _forward(*arguments: Any) -> Tensor:
    *inputs, backend = arguments
    out = torch.empty_like(inputs[0])
    _backend(backend).conv_forward(_describe(*inputs), out.transpose(1, 2))
    return out


def _memory(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, initial_states: Tensor | None, *options: Any
) -> list[Tensor | None]:
    return [None if value is None else torch.empty_like(value) for value in (x, weight, bias, initial_states)]


def _backward(grad_out: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Return the gradients, with an empty tensor in place of each None."""
    *inputs, backend = arguments
    memory = _memory(*inputs)
    tensors: Any = (*memory[:3], None, memory[3])
    gradients = _describe(*tensors, *inputs[-2:])
    _backend(backend).conv_backward(_describe(*inputs), grad_out.transpose(1, 2), gradients)
    return tuple(grad_out.new_empty(0) if grad is None else grad for grad in memory)


def _fake_backward(grad_out: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(grad_out.new_empty(0) if grad is None else grad for grad in _memory(*arguments))


causal_conv1d_forward = torch.library.custom_op(
    "mambarium::causal_conv1d_forward", _forward, mutates_args=(), schema=f"({_INPUTS}) -> Tensor"
)
causal_conv1d_backward = torch.library.custom_op(
    "mambarium::causal_conv1d_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor grad_out, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
causal_conv1d_forward.register_fake(lambda x, *rest: torch.empty_like(x))
causal_conv1d_backward.register_fake(_fake_backward)
conv_backward = differentiable_once(causal_conv1d_backward, _backward)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[5:]


def _backward_of_call(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    x, weight, bias, seq_idx, initial_states = ctx.saved_tensors
    grads = conv_backward(grad_out, x, weight, bias, seq_idx, initial_states, *ctx.options)
    grad_x, grad_weight, grad_bias, grad_initial = (
        None if value is None else grad for value, grad in zip((x, weight, bias, initial_states), grads, strict=True)
    )
    return grad_x, grad_weight, grad_bias, None, grad_initial, None, None, None


conv_forward = differentiable(causal_conv1d_forward, _forward, _backward_of_call, _setup_context)


@register_flop_formula(torch.ops.mambarium.causal_conv1d_forward)
def _(x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(x) * weight[1]


@register_flop_formula(torch.ops.mambarium.causal_conv1d_backward)
def _(grad_out: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * 2 * math.prod(x) * weight[1]

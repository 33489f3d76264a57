"""The causal convolution as operations of torch.library: fake, autograd and FLOP formula."""

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


def _forward(*arguments: Any) -> Tensor:
    *inputs, backend = arguments
    return _backend(backend).conv_forward(Conv(*inputs))


def _backward(grad_out: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Return the gradients, with an empty tensor in place of each None."""
    *inputs, backend = arguments
    conv = Conv(*inputs)
    grads = _backend(backend).conv_backward(conv, grad_out)
    return tuple(conv.weight.new_empty(0) if grad is None else grad for grad in grads)


def _fake_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    inputs = (x, weight, bias, initial_states)
    return tuple(weight.new_empty(0) if value is None else torch.empty_like(value) for value in inputs)


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
    batch, length, dim = x
    return 2 * batch * length * dim * weight[1]


@register_flop_formula(torch.ops.mambarium.causal_conv1d_backward)
def _(grad_out: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    batch, length, dim = x
    return 2 * 2 * batch * length * dim * weight[1]

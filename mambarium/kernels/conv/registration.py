"""The causal convolution as operations of torch.library: fake, autograd and FLOP formula."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.conv.interface import ConvBackend
from mambarium.kernels.transforms import differentiable, differentiable_once


def _backend(name: str) -> ConvBackend:
    return cast(ConvBackend, load_backend("conv", name))


@torch.library.custom_op("mambarium::causal_conv1d_forward", mutates_args=())
def causal_conv1d_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
    backend: str,
) -> Tensor:
    """Forward of `ConvBackend.conv_forward`; channel-last shapes and results as described there."""
    return _backend(backend).conv_forward(x, weight, bias, seq_idx, initial_states, silu, reverse)


@causal_conv1d_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
    backend: str,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mambarium::causal_conv1d_backward", mutates_args=())
def causal_conv1d_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backward of `ConvBackend.conv_backward`, with an empty tensor in place of each None."""
    grads = _backend(backend).conv_backward(grad_out, x, weight, bias, seq_idx, initial_states, silu, reverse)
    return tuple(weight.new_empty(0) if grad is None else grad for grad in grads)  # type: ignore[return-value]  # mypy can't count a tuple made by a loop


@causal_conv1d_backward.register_fake
def _(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    inputs = (x, weight, bias, initial_states)
    return tuple(weight.new_empty(0) if value is None else torch.empty_like(value) for value in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, silu, reverse, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.silu, ctx.reverse, ctx.backend = silu, reverse, backend


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    x, weight, bias, seq_idx, initial_states = ctx.saved_tensors
    grads = conv_backward(grad_out, x, weight, bias, seq_idx, initial_states, ctx.silu, ctx.reverse, ctx.backend)
    grad_x, grad_weight, grad_bias, grad_initial = (
        None if value is None else grad for value, grad in zip((x, weight, bias, initial_states), grads, strict=True)
    )
    return grad_x, grad_weight, grad_bias, None, grad_initial, None, None, None


conv_forward = differentiable(causal_conv1d_forward, _backward, _setup_context)
conv_backward = differentiable_once(causal_conv1d_backward)


@register_flop_formula(torch.ops.mambarium.causal_conv1d_forward)
def _(x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    batch, length, dim = x
    return 2 * batch * length * dim * weight[1]


@register_flop_formula(torch.ops.mambarium.causal_conv1d_backward)
def _(grad_out: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    batch, length, dim = x
    return 2 * 2 * batch * length * dim * weight[1]

"""The public causal convolution: checks, choice of the backend, canonical layout, final states."""

from typing import Literal, overload

import torch
from torch import Tensor

from mambarium.kernels.arguments import HALF_OR_FLOAT, REAL, check_device, check_dtype, check_shape
from mambarium.kernels.backend import Backend, choose_backend
from mambarium.kernels.conv.reference import causal_conv1d_reference
from mambarium.kernels.conv.registration import conv_forward

# The kernels compare 32-bit numbers: wider ones could collide when they are cut.
_DOCUMENTS = (torch.int32, torch.int16, torch.int8, torch.uint8)


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    seq_idx: Tensor | None = ...,
    initial_states: Tensor | None = ...,
    return_final_states: Literal[False] = ...,
    activation: Literal["silu", "swish"] | None = ...,
    *,
    reverse: bool = ...,
    backend: Backend | None = ...,
) -> Tensor: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    seq_idx: Tensor | None = ...,
    initial_states: Tensor | None = ...,
    *,
    return_final_states: Literal[True],
    activation: Literal["silu", "swish"] | None = ...,
    reverse: bool = ...,
    backend: Backend | None = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    seq_idx: Tensor | None = ...,
    initial_states: Tensor | None = ...,
    return_final_states: bool = ...,
    activation: Literal["silu", "swish"] | None = ...,
    *,
    reverse: bool = ...,
    backend: Backend | None = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: Literal["silu", "swish"] | None = None,
    *,
    reverse: bool = False,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution along the last axis, with optional silu.

    out[t] = activation(bias + sum over k of weight[k] * x[t - (width - 1) + k]). The arguments are those of
    the causal-conv1d package's `causal_conv1d_fn`. Strides are free: memory is read and written in
    place, but that of half precision on a CPU. Computed in float32 (float64 by the reference), deterministic run to
    run. Under `torch.utils.flop_counter` the forward counts 2 * batch * length * dim * width, the backward twice
    that.

    Args:
        x: (batch, dim, length).
        weight: (dim, width), width 2 to 4; any width with the reference.
        bias: (dim,), or None.
        seq_idx: document of each position, (batch, length) of int32 or narrower; taps from another document
            than the position's own count as zero. None: one document.
        initial_states: the inputs before position 0, oldest first, (batch, dim, width - 1); they belong to
            the document of position 0. None: zeros.
        return_final_states: whether the last width - 1 inputs (initial states included, if x is shorter) are
            returned too, to be the next chunk's initial states.
        activation: None, or "silu", also called "swish".
        reverse: whether positions are visited from the last to the first (an anti-causal convolution): then t - k
            reads t + k above, "before position 0" means after the last, and final states are the first inputs, in
            the order of the visits. No copies are made for it.
        backend: "triton", "cpu" or "reference"; None chooses by MAMBARIUM_BACKEND, else by the tensors.

    Returns:
        out (batch, dim, length) of x's dtype and memory layout, or (out, final_states) with final_states
        (batch, dim, width - 1) of x's dtype, where entries of another document than the last position's are
        zero. Both are differentiable, once and in reverse mode; through the reference any number of times, and
        forward mode is always its work.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit, or the backend does not serve it.
        RuntimeError: the backend's package is not installed.
    """
    name = choose_backend(backend, x)
    check_conv_arguments(x, weight, bias, seq_idx, initial_states, activation, name)
    silu = activation is not None
    if initial_states is not None:
        initial_states = initial_states.to(x.dtype)
    if name == "reference":
        out = causal_conv1d_reference(x, weight, bias, seq_idx, initial_states, silu, reverse)
    else:
        out = conv_forward(
            x,
            weight.float(),
            None if bias is None else bias.float(),
            None if seq_idx is None else seq_idx.to(torch.int32),
            initial_states,
            silu,
            reverse,
            name,
        )
    if return_final_states:
        count = weight.shape[1] - 1
        if reverse:
            x = x[..., : max(count, 1)].flip(-1)
            seq_idx = None if seq_idx is None else seq_idx[:, : max(count, 1)].flip(-1)
        return out, _final_states(x, count, seq_idx, initial_states)
    return out


def _final_states(x: Tensor, count: int, seq_idx: Tensor | None, initial_states: Tensor | None) -> Tensor:
    batch, dim, length = x.shape
    missing = max(count - length, 0)
    states = x[..., length - (count - missing) :]
    if missing:
        earlier = x.new_zeros(batch, dim, missing)
        if initial_states is not None:
            earlier = initial_states[..., count - missing :]
        states = torch.cat([earlier, states], dim=-1)
    if seq_idx is not None:
        documents = torch.cat([seq_idx[:, :1].expand(batch, missing), seq_idx[:, length - (count - missing) :]], 1)
        same = documents == seq_idx[:, -1:]  # (batch, width - 1)
        return torch.where(same[:, None], states, torch.zeros_like(states))
    return states.clone()


def check_conv_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    activation: str | None,
    backend: Backend,
) -> None:
    """Raise ValueError, naming argument, expected and found, unless `causal_conv1d`'s arguments fit each other."""
    if x.dim() != 3:
        raise ValueError(f"x: expected shape (batch, dim, length); found {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"x: expected at least one sequence, channel and position; found shape {tuple(x.shape)}")
    batch, dim, length = x.shape
    if weight.dim() != 2 or weight.shape[0] != dim or weight.shape[1] < 1:
        raise ValueError(f"weight: expected shape (dim, width) with dim = {dim}; found {tuple(weight.shape)}")
    width = weight.shape[1]
    if backend != "reference" and not 2 <= width <= 4:
        raise ValueError(
            f"weight: backend {backend!r} expects a width of 2 to 4; found {width}, which only "
            "backend='reference' serves"
        )
    check_dtype("x", x, REAL if backend == "reference" else HALF_OR_FLOAT)
    check_dtype("weight", weight, REAL)
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation: expected None, 'silu' or 'swish'; found {activation!r}")
    check_device("weight", weight, x.device)
    optional = (
        ("bias", bias, (dim,), "(dim,)", REAL),
        ("seq_idx", seq_idx, (batch, length), "(batch, length)", _DOCUMENTS),
        ("initial_states", initial_states, (batch, dim, width - 1), "(batch, dim, width - 1)", REAL),
    )
    for name, value, shape, meaning, dtypes in optional:
        if value is not None:
            check_shape(name, value, shape, meaning)
            check_device(name, value, x.device)
            check_dtype(name, value, dtypes)

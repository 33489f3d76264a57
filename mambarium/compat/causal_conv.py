"""The functions of `causal_conv1d`."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mambarium.kernels import causal_conv1d
from mambarium.kernels.arguments import REAL, check_device, check_dtype, check_shape
from mambarium.kernels.backend import Backend, choose_backend
from mambarium.kernels.transforms import under_transforms

__all__ = ["causal_conv1d_fn", "causal_conv1d_ref", "causal_conv1d_update", "causal_conv1d_update_ref"]

Activation = Literal["silu", "swish"] | None


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: Activation = None,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mambarium.kernels.causal_conv1d`; the final states are written into `final_states_out`, if there is one."""
    if not return_final_states:
        return causal_conv1d(x, weight, bias, seq_idx, initial_states, activation=activation, backend=backend)
    out, states = causal_conv1d(
        x, weight, bias, seq_idx, initial_states, return_final_states=True, activation=activation, backend=backend
    )
    return out, states if final_states_out is None else final_states_out.copy_(states)


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: Activation = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the plain reference of `causal_conv1d_fn`."""
    states = (initial_states, return_final_states, final_states_out)
    return causal_conv1d_fn(x, weight, bias, None, *states, activation, "reference")


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """One or a few steps of the convolution on a state of the last inputs, which is updated in place.

    Plain PyTorch under every backend: a step reads width values per channel. MAMBARIUM_BACKEND is checked like
    elsewhere. Plain autograd records nothing; under torch.func's transforms and in forward mode it is differentiable.

    Args:
        x: (batch, dim) or (batch, dim, length).
        conv_state: the last inputs, (batch, dim, state_length), state_length at least width - 1; with
            conv_state_indices its first axis may have any size.
        weight: (dim, width).
        bias: (dim,).
        activation: None, "silu" or "swish".
        cache_seqlens: (batch,) number of inputs seen before; the state is then a ring, in which input t lies at
            t % state_length. None: the state is in order, oldest first. Either way there may be more inputs in one
            call than the state holds.
        conv_state_indices: (batch,) place of each batch element's state. Negative: a padding element, whose output is
            zero and which changes no state.

    Returns:
        As x.

    Raises:
        ValueError: a shape, dtype or device does not fit, the activation is unknown, or MAMBARIUM_BACKEND names a
            backend that does not serve x.
    """
    choose_backend(None, x)
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation: expected None, 'silu' or 'swish'; found {activation!r}")
    new = x.unsqueeze(-1) if x.dim() == 2 else x
    active = None
    if conv_state_indices is not None:
        check_shape("conv_state_indices", conv_state_indices, x.shape[:1], "(batch,)")
        active = conv_state_indices >= 0
    state = conv_state if conv_state_indices is None else conv_state[conv_state_indices.clamp(min=0)]
    batch, dim, _ = new.shape
    state_length, past = state.shape[-1], weight.shape[1] - 1
    check_shape("conv_state", state, (batch, dim, state_length), "(batch, dim, state_length)")
    check_shape("weight", weight, (dim, past + 1), "(dim, width)")
    if bias is not None:
        check_shape("bias", bias, (dim,), "(dim,)")
    for name, value in (("x", x), ("conv_state", conv_state), ("weight", weight), ("bias", bias)):
        if value is not None:
            check_device(name, value, x.device)
            check_dtype(name, value, REAL)
    if cache_seqlens is not None:
        check_shape("cache_seqlens", cache_seqlens, (batch,), "(batch,)")
    if state_length < past:
        raise ValueError(f"conv_state: expected at least width - 1 = {past} inputs; found {state_length}")

    with torch.set_grad_enabled(torch.is_grad_enabled() and under_transforms()):
        out, state = _steps(new, state, weight, bias, cache_seqlens)
        out = (out if activation is None else F.silu(out)).to(x.dtype)
        if active is None or conv_state_indices is None:
            conv_state.copy_(state)
        else:
            conv_state[conv_state_indices[active]] = state[active]
            out = torch.where(active[:, None, None], out, torch.zeros_like(out))
    return out.squeeze(-1) if x.dim() == 2 else out


def _steps(
    new: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, cache_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the sums over taps for the new inputs, (batch, dim, length) float32, and the state after them."""
    past, (_, dim, length), state_length = weight.shape[1] - 1, new.shape, state.shape[-1]
    if cache_seqlens is None:
        inputs = torch.cat([state, new.to(state.dtype)], dim=-1)
        state = inputs[..., length:]
        inputs = inputs[..., state_length - past :]
    else:
        offsets = torch.arange(-past, length, device=new.device)
        places = (cache_seqlens[:, None] + offsets).remainder(state_length)  # (batch, past + length)
        places = places[:, None].expand(-1, dim, -1)
        before = state.gather(2, places[..., :past])
        inputs = torch.cat([before, new.to(state.dtype)], dim=-1)
        # Only the last state_length inputs stay: were earlier ones written too, to the same places, it would be
        # undefined which of them remain.
        kept = min(length, state_length)
        state = state.scatter(2, places[..., past + length - kept :], inputs[..., past + length - kept :])
    out = (inputs.float().unfold(-1, past + 1, 1) * weight.float()[:, None]).sum(-1)
    return out if bias is None else out + bias.float()[:, None], state


causal_conv1d_update_ref = causal_conv1d_update

"""The functions of `causal_conv1d_cuda`, which causal_conv1d and mamba_ssm call from their own autograd.

Since 1.5 they fill tensors that they are given and return nothing; from 1.2 to 1.4 they returned new ones, as
`causal_conv1d.cpp_functions` does to this day. Which of them is called, the number of arguments tells.
"""

from typing import Any

from torch import Tensor

from mambarium.compat.causal_conv import Activation, causal_conv1d_fn
from mambarium.compat.causal_conv import causal_conv1d_update as update
from mambarium.kernels.arguments import check_shape
from mambarium.kernels.backend import choose_backend
from mambarium.kernels.conv.causal_conv1d import check_conv_arguments
from mambarium.kernels.conv.registration import conv_backward

__all__ = [
    "causal_conv1d_bwd",
    "causal_conv1d_bwd_function",
    "causal_conv1d_fwd",
    "causal_conv1d_fwd_function",
    "causal_conv1d_update",
    "causal_conv1d_update_function",
]


def causal_conv1d_fwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, initial_states: Tensor | None, *rest: Any
) -> Tensor | None:
    """`causal_conv1d_fn`.

    Args:
        x: (batch, dim, length).
        weight: (dim, width).
        bias: (dim,), or None.
        seq_idx: (batch, length), or None.
        initial_states: (batch, dim, width - 1), or None.
        rest: the tensor for the output (since 1.5), that for the final states or None, and whether silu is applied.

    Returns:
        The output, (batch, dim, length), if there is no tensor for it.

    Raises:
        TypeError: another number of arguments.
        ValueError: a shape, dtype or device does not fit.
    """
    *given, final_states_out, silu = _checked("causal_conv1d_fwd", rest, 5, (2, 3))
    arguments = (x, weight, bias, seq_idx, initial_states)
    if final_states_out is None:
        out = causal_conv1d_fn(*arguments, activation=_activation(silu))
    else:
        out, _ = causal_conv1d_fn(*arguments, True, final_states_out, _activation(silu))
    assert isinstance(out, Tensor)
    if not given:
        return out
    given[0].copy_(out)
    return None


def causal_conv1d_bwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dout: Tensor,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    dfinal_states: Tensor | None,
    dx: Tensor | None,
    *rest: Any,
) -> tuple[Tensor | None, ...] | None:
    """Return the gradients of x, weight, bias and initial_states.

    Args:
        x: as in `causal_conv1d_fwd`, like all that is not named here.
        weight: see x.
        bias: see x.
        dout: the output's gradient.
        seq_idx: see x.
        initial_states: see x.
        dfinal_states: the final states' gradient, or None.
        dx: the tensor for the gradient of x, or None.
        rest: the tensors for those of weight, bias and initial_states, where they are wanted, and whether silu is
            applied (since 1.5); or whether the gradient of initial_states is wanted, and the latter.

    Returns:
        The gradients, if there are no tensors for them: None for absent inputs.

    Raises:
        TypeError: another number of arguments.
        ValueError: a shape, dtype or device does not fit.
    """
    *given, silu = _checked("causal_conv1d_bwd", rest, 8, (2, 4))
    grads = _gradients(x, weight, bias, dout, seq_idx, initial_states, dfinal_states, silu)
    memory = (dx, None, None, None) if len(given) == 1 else (dx, *given)
    found = [
        grad if place is None or grad is None else place.copy_(grad) for grad, place in zip(grads, memory, strict=True)
    ]
    if len(given) == 1:
        return (*found[:3], found[3] if given[0] else None)
    return None


def causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> Tensor | None:
    """Make a step of the convolution.

    Args:
        x: (batch, dim, length).
        conv_state: updated in place, see `mambarium.compat.causal_conv`.
        weight: (dim, width).
        bias: (dim,), or None.
        rest: the tensor for the output (since 1.5), whether silu is applied, cache_seqlens and, since 1.4,
            conv_state_indices.

    Returns:
        The output, (batch, dim, length), if there is no tensor for it.

    Raises:
        TypeError: another number of arguments.
        ValueError: a shape, dtype or device does not fit.
    """
    *given, silu, cache_seqlens, indices = (
        (*rest, None) if len(rest) == 2 else _checked("causal_conv1d_update", rest, 4, (2, 3, 4))
    )
    out = update(x, conv_state, weight, bias, _activation(silu), cache_seqlens, indices)
    if not given:
        return out
    given[0].copy_(out)
    return None


# The same under the names of causal_conv1d.cpp_functions.
causal_conv1d_fwd_function = causal_conv1d_fwd
causal_conv1d_bwd_function = causal_conv1d_bwd
causal_conv1d_update_function = causal_conv1d_update


def _activation(silu: bool) -> Activation:
    return "silu" if silu else None


def _checked(name: str, rest: tuple[Any, ...], named: int, counts: tuple[int, ...]) -> tuple[Any, ...]:
    if len(rest) not in counts:
        expected = " or ".join(str(named + count) for count in counts)
        raise TypeError(
            f"causal_conv1d_cuda.{name}: expected {expected} arguments, as from causal_conv1d 1.2 on; "
            f"found {named + len(rest)}"
        )
    return rest


def _gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dout: Tensor,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    dfinal_states: Tensor | None,
    silu: bool,
) -> list[Tensor | None]:
    """Those of x, weight, bias and initial_states. Callers may have turned autograd off: it has no part in them."""
    backend = choose_backend(None, x)
    if backend == "reference":
        raise ValueError("causal_conv1d_cuda: has the backends cpu and triton, for float32, float16 and bfloat16")
    check_conv_arguments(x, weight, bias, seq_idx, initial_states, _activation(silu), backend)
    check_shape("dout", dout, x.shape, "(batch, dim, length)")
    parameters = (weight.float(), None if bias is None else bias.float())
    states = None if initial_states is None else initial_states.to(x.dtype)
    documents = None if seq_idx is None else seq_idx.int()
    found = conv_backward(dout, x, *parameters, documents, states, silu, False, backend)
    grad_x, grad_states = found[0], None if states is None else found[3]
    if dfinal_states is not None:
        past = weight.shape[1] - 1
        of_x = min(past, x.shape[2])  # so many final states are inputs, those before them initial states
        grad_x[..., x.shape[2] - of_x :] += dfinal_states[..., past - of_x :]
        if grad_states is not None:
            grad_states[..., of_x:] += dfinal_states[..., : past - of_x]
    grad_weight = found[1].to(weight.dtype)
    return [grad_x, grad_weight, None if bias is None else found[2].to(bias.dtype), grad_states]

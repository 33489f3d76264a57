"""Selective scan in plain PyTorch: slow, clear, of any dtype, differentiable any number of times."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return selective scan (S6), algorithm 2 of Mamba (Gu and Dao, 2023, arXiv 2312.00752), as a loop over time.

    With step s = softplus(delta + delta_bias), for each channel and state

        h[t] = exp(s[t] * A) * h[t - 1] + s[t] * B[t] * u[t]
        y[t] = sum over states of h[t] * C[t] + D * u[t],        out = y * silu(z)

    where h[t - 1] is taken as zero where reset[t]. For complex A the sum stands for the conjugate pairs too:
    twice its real part is taken, as in mamba_ssm's `selective_scan_ref`.

    Args:
        u: (batch, dim, length).
        delta: (batch, dim, length).
        A: (dim, d_state), real or complex.
        B: (batch, d_state, length), (batch, groups, d_state, length), or constant (dim, d_state). With
            complex A complex, or real with real and imaginary parts side by side in a last axis of 2 *
            length.
        C: as B.
        D: (dim,), or None.
        z: gate, (batch, dim, length), or None.
        delta_bias: (dim,), or None.
        delta_softplus: whether the step is softplus of delta + delta_bias, or the sum itself.
        initial_state: (batch, dim, d_state), or None for zeros.
        reset: (batch, length) bool, or None.
        reverse: whether positions are visited from the last to the first: h[t + 1] in place of h[t - 1].

    Returns:
        out (batch, dim, length) of u's dtype, and the last state (batch, dim, d_state), float32 (float64 if
        u is; complex if A is).
    """
    batch, dim, length = u.shape
    d_state = A.shape[1]
    real_dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    dtype = real_dtype.to_complex() if A.is_complex() else real_dtype
    x = u.to(real_dtype)
    step = delta.to(real_dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(real_dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    A = A.to(dtype)
    B_steps = _steps_per_channel(B, dim, length, dtype)
    C_steps = _steps_per_channel(C, dim, length, dtype)

    state = torch.zeros(batch, dim, d_state, dtype=dtype, device=u.device)
    if initial_state is not None:
        state = initial_state.to(dtype)
    inputs, steps = x.unbind(-1), step.unbind(-1)  # (batch, dim) each
    outputs = []
    for t in reversed(range(length)) if reverse else range(length):
        if reset is not None:
            state = torch.where(reset[:, t, None, None], torch.zeros_like(state), state)
        decay = torch.exp(steps[t][..., None] * A)  # (batch, dim, d_state)
        state = decay * state + (steps[t] * inputs[t])[..., None] * B_steps[t]
        y = (state * C_steps[t]).sum(-1)
        outputs.append(2 * y.real if y.is_complex() else y)
    if reverse:
        outputs.reverse()
    channel_last = u.stride(1) < u.stride(2)
    out = torch.stack(outputs, dim=1).transpose(1, 2) if channel_last else torch.stack(outputs, dim=2)
    if D is not None:
        out = out + D.to(real_dtype)[:, None] * x
    if z is not None:
        out = out * F.silu(z.to(real_dtype))
    return out.to(u.dtype), state


def _steps_per_channel(B: Tensor, dim: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Return the input or output matrix of every time step, each broadcastable to (batch, dim, d_state)."""
    if B.dim() == 2:
        return [B.to(dtype)] * length
    if dtype.is_complex and not B.is_complex():
        B = torch.view_as_complex(B.to(dtype.to_real()).unflatten(-1, (length, 2)).contiguous())
    B = B.to(dtype)
    if B.dim() == 3:
        return [step[:, None] for step in B.unbind(-1)]  # (batch, 1, d_state)
    per_group = dim // B.shape[1]
    return [step.repeat_interleave(per_group, dim=1) for step in B.unbind(-1)]

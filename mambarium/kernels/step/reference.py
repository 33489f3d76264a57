"""One step of the selective scan in plain PyTorch, on a state that is updated in place."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_state_update_reference(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
) -> Tensor:
    """Return the step of `selective_scan_reference`, with heads.

    Args:
        state: (entries, heads, dim, d_state), entries = batch without state_batch_indices; updated in place.
        x: (batch, heads, dim).
        dt: (batch, heads, dim).
        A: (heads, dim, d_state).
        B: (batch, groups, d_state); head h belongs to group h // (heads // groups).
        C: as B.
        D: (heads, dim), or None.
        z: gate, (batch, heads, dim), or None.
        dt_bias: (heads, dim), or None.
        dt_softplus: whether the step is softplus of dt + dt_bias, or the sum itself.
        state_batch_indices: (batch,) entry of each batch element; negative: no update, and zeros out. Or None.

    Returns:
        (batch, heads, dim) of x's dtype. Computed in float32, in float64 if x is.

    Raises:
        ValueError: a place is beyond the entries.
    """
    check_places(state_batch_indices, state.shape[0])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs, step = x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = F.softplus(step)
    per_group = x.shape[1] // B.shape[1]
    B, C = (matrix.to(dtype).repeat_interleave(per_group, dim=1)[:, :, None] for matrix in (B, C))
    if state_batch_indices is not None:
        before = state[state_batch_indices.clamp(min=0)]
    else:
        before = state.clone() if torch.is_grad_enabled() else state  # derivatives need what is overwritten
    decay = torch.exp(step[..., None] * A.to(dtype))  # (batch, heads, dim, d_state)
    after = decay * before + (step * inputs)[..., None] * B
    y = (after * C).sum(-1)
    if D is not None:
        y = y + D.to(dtype) * inputs
    if z is not None:
        y = y * F.silu(z.to(dtype))
    if state_batch_indices is None:
        state.copy_(after)
    else:
        active = state_batch_indices >= 0
        state[state_batch_indices[active]] = after[active].to(state.dtype)
        y = torch.where(active[:, None, None], y, torch.zeros_like(y))
    return y.to(x.dtype)


def check_places(places: Tensor | None, entries: int) -> None:
    """Raise ValueError if a place, such as those of state_batch_indices, is beyond the entries of the states."""
    if places is not None and bool((places >= entries).any()):
        raise ValueError(f"state_batch_indices: expected places below {entries}; found {int(places.max())}")

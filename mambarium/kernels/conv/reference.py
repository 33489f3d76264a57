"""Causal depthwise convolution in plain PyTorch: slow, clear, of any dtype and width."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    silu: bool = False,
    reverse: bool = False,
) -> Tensor:
    """Causal depthwise convolution as a sum over taps.

    out[t] = bias + sum over k of weight[k] * x[t - (width - 1) + k], where a tap from another document
    counts as zero, and taps before position 0 read the initial states, which belong to the document of
    position 0.

    Args:
        x: (batch, dim, length).
        weight: (dim, width).
        bias: (dim,), or None.
        seq_idx: document of each position, (batch, length) integers, or None for one document.
        initial_states: inputs before position 0, oldest first, (batch, dim, width - 1), or None for zeros.
        silu: whether silu is applied to the sum.
        reverse: whether time runs from the last position to the first: the same on flipped x and seq_idx, and the
            result flipped back.

    Returns:
        (batch, dim, length), x's dtype.
    """
    if reverse:
        x, seq_idx = x.flip(-1), None if seq_idx is None else seq_idx.flip(-1)
    batch, dim, length = x.shape
    width = weight.shape[1]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if initial_states is None:
        initial_states = x.new_zeros(batch, dim, width - 1)
    extended = torch.cat([initial_states, x], dim=-1).to(dtype)  # (batch, dim, width - 1 + length)
    weight = weight.to(dtype)
    out = torch.zeros_like(x, dtype=dtype)
    for k in range(width):
        tap = extended[..., k : k + length]
        if seq_idx is not None:
            documents = torch.cat([seq_idx[:, :1].expand(batch, width - 1), seq_idx], dim=1)
            same = documents[:, k : k + length] == seq_idx  # (batch, length)
            tap = torch.where(same[:, None], tap, torch.zeros_like(tap))
        out = out + weight[:, k, None] * tap
    if bias is not None:
        out = out + bias.to(dtype)[:, None]
    out = (F.silu(out) if silu else out).to(x.dtype)
    return out.flip(-1) if reverse else out

"""The functions of `causal_conv1d.causal_conv1d_varlen`."""

import torch
from torch import Tensor

from mambarium.kernels.arguments import check_device

__all__ = ["causal_conv1d_varlen_states", "causal_conv1d_varlen_states_ref"]


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """Return the last inputs of each of several sequences that follow one another, to go on from.

    Args:
        x: (tokens, dim), all sequences.
        cu_seqlens: (batch + 1,) integers, where each sequence starts, and the last one's end.
        state_len: how many inputs are taken.

    Returns:
        (batch, dim, state_len), stride 1 along dim; zero before a sequence that is shorter.

    Raises:
        ValueError: a shape or device does not fit.
    """
    if x.dim() != 2 or cu_seqlens.dim() != 1:
        raise ValueError(
            "x, cu_seqlens: expected shapes (tokens, dim) and (batch + 1,); "
            f"found {tuple(x.shape)} and {tuple(cu_seqlens.shape)}"
        )
    check_device("cu_seqlens", cu_seqlens, x.device)
    starts, ends = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
    places = ends + torch.arange(-state_len, 0, device=x.device)  # (batch, state_len)
    states = torch.where((places >= starts)[..., None], x[places.clamp(min=0)], 0)
    return states.transpose(1, 2)


causal_conv1d_varlen_states_ref = causal_conv1d_varlen_states

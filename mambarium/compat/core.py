"""The functions of `selective_scan_cuda_core`, the extension of VMamba before `selective_scan_cuda_oflex`."""

from torch import Tensor

from mambarium.compat import oflex
from mambarium.compat.oflex import bwd

__all__ = ["bwd", "fwd"]


def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int,
) -> tuple[Tensor, Tensor]:
    """`oflex.fwd` with an output of u's dtype."""
    return oflex.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows, out_float=False)

"""Stochastic depth."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mambarium.backbones.layers.arguments import check_rate


class DropPath(nn.Module):
    """Drop a residual branch for whole samples in training and scale the kept ones by 1 / (1 - rate).

    "Deep Networks with Stochastic Depth" (Huang et al. 2016), per sample.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_rate("the rate of DropPath", rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop rows of `x` (batch, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty(x.shape[:1] + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Return the rate, for `print`."""
        return f"rate={self.rate:g}"


def drop_path_rates(last: float, depth: int) -> Iterator[float]:
    """Return the linear rule: rates from 0 at the first of `depth` branches to `last` at the last one."""
    check_rate("drop_path", last)
    return (last * i / max(depth - 1, 1) for i in range(depth))

"""The projection with which most vision backbones start."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """`nn.Linear` with a truncated normal weight of standard deviation 0.02 and zero bias at the start."""

    def reset_parameters(self) -> None:
        """Truncated normal weight, zero bias."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

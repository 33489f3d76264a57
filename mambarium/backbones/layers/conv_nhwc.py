"""Convolutions on channels-last tensors."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNHWC(nn.Conv2d):
    """`nn.Conv2d` on (batch, height, width, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, in_channels) to (batch, new height, new width, out_channels)."""
        # Contiguous channels-last memory keeps the depthwise convolution on its fast path on the CPU.
        return super().forward(x.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

"""Projections and convolutions with which vision backbones begin and go from stage to stage."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}
"""Strides of a stem's two convolutions, by the reduction of height and width by both together."""


class Linear(nn.Linear):
    """`nn.Linear` with a truncated normal weight of standard deviation 0.02 and zero bias at the start."""

    def reset_parameters(self) -> None:
        """Draw a truncated normal weight, and a zero bias."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ConvNHWC(nn.Conv2d):
    """`nn.Conv2d` on (batch, height, width, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, in_channels) to (batch, new height, new width, out_channels)."""
        # Contiguous channels-last memory keeps the depthwise convolution on its fast path on the CPU.
        return super().forward(x.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvStem(nn.Module):
    """Two 3x3 convolutions, each followed by a norm and the first one by an activation too.

    `conv` makes a convolution as `nn.Conv2d` does, `norm` a norm of so many channels; both convolutions together reduce
    height and width by the stride.
    """

    def __init__(
        self,
        between: int,
        width: int,
        stride: Literal[1, 2, 4],
        conv: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ) -> None:
        super().__init__()
        first, second = STRIDES[stride]
        self.conv1 = conv(3, between, 3, stride=first, padding=1)
        self.norm1 = norm(between)
        self.conv2 = conv(between, width, 3, stride=second, padding=1)
        self.norm2 = norm(width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Images to a map of ceil(height / stride) x ceil(width / stride), laid out as the convolutions have it."""
        return self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))


class ConvDownsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm, as `ConvStem` makes them."""

    def __init__(
        self, before: int, after: int, conv: Callable[..., nn.Module], norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv = conv(before, after, 3, stride=2, padding=1)
        self.norm = norm(after)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map to one of half the height and width, rounded up."""
        return self.norm(self.conv(x))


class ConvNormAct(nn.Sequential):
    """Convolution of an odd kernel, batch norm with the YOLO family's constants, activation (SiLU if None)."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        bias: bool = False,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2, bias=bias),
            batch_norm(after),
            act or nn.SiLU(),
        )


def batch_norm(width: int) -> nn.BatchNorm2d:
    """Return a batch norm with the YOLO family's constants."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.03)

"""Images as sequences of patches: their embedding, and their learned positions at other sizes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PatchEmbedding(nn.Module):
    """Linear projection of patches.

    Args:
        patch_size: Height and width of a patch.
        stride: Distance of patches.
        width: Size of a patch's vector.
    """

    def __init__(self, patch_size: int, stride: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=stride)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """LeCun normal weight (truncated), zero bias."""
        fan_in = self.proj.weight[0].numel()
        # The standard deviation of a normal distribution that is cut at two standard deviations.
        std = fan_in**-0.5 / 0.87962566103423978
        nn.init.trunc_normal_(self.proj.weight, std=std, a=-2 * std, b=2 * std)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, patches, width), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


def resize_positions(positions: Tensor, learned: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Vectors of a grid's positions, interpolated (bicubic) for another grid, as Vim and DeiT do.

    Args:
        positions: (batch, rows * columns, width), row by row.
        learned: Rows and columns of these positions.
        grid: Rows and columns of the positions that are wanted.

    Returns:
        (batch, rows * columns, width) of the wanted grid.
    """
    if grid == learned:
        return positions
    values = positions.transpose(1, 2).unflatten(2, learned)  # (batch, width, rows, columns)
    values = F.interpolate(values, size=grid, mode="bicubic", align_corners=False)
    return values.flatten(2).transpose(1, 2)

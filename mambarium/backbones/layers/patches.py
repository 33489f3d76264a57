"""Images as sequences of patches: their embedding, and their learned positions at other sizes."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchEmbedding(nn.Module):
    """Linear projection of patches."""

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
    """Vectors (batch, rows * columns, width) of a grid's positions, bicubic for another grid, as Vim and DeiT do."""
    if grid == learned:
        return positions
    values = positions.transpose(1, 2).unflatten(2, learned)  # (batch, width, rows, columns)
    values = F.interpolate(values, size=grid, mode="bicubic", align_corners=False)
    return values.flatten(2).transpose(1, 2)


def resize_token_positions(
    positions: Tensor, learned: tuple[int, int], grid: tuple[int, int], class_token: bool
) -> Tensor:
    """`resize_positions` with the position of a class token in the middle, which keeps its value, if there is one."""
    if not class_token:
        return resize_positions(positions, learned, grid)
    middle = learned[0] * learned[1] // 2
    before, token, after = positions.tensor_split([middle, middle + 1], dim=1)
    patches = resize_positions(torch.cat([before, after], dim=1), learned, grid)
    middle = grid[0] * grid[1] // 2
    return torch.cat([patches[:, :middle], token, patches[:, middle:]], dim=1)


def resize_stored_positions(
    stored: Tensor, grid: tuple[int, int], width: int, token: Literal["first", "middle"], keep_token: bool
) -> Tensor | None:
    """Positions from a checkpoint of a model for square images, (1, rows * rows, width), brought to another grid.

    There may be one more for a class token, first or in the middle, before and after; it keeps its value, or is left
    out unless `keep_token`. None if the stored tensor is no such positions.
    """
    if stored.ndim != 3 or stored.shape[0] != 1 or stored.shape[2] != width:
        return None
    side = math.isqrt(stored.shape[1])
    extra = stored.shape[1] - side * side
    if side < 1 or extra not in (0, 1) or extra < int(keep_token):
        return None
    place = side * side // 2 if token == "middle" else 0
    before, position, after = stored.tensor_split([place, place + extra], dim=1)
    patches = resize_positions(torch.cat([before, after], dim=1), (side, side), grid)
    if not keep_token:
        return patches
    place = patches.shape[1] // 2 if token == "middle" else 0
    return torch.cat([patches[:, :place], position, patches[:, place:]], dim=1)

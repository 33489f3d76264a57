"""Anchor boxes on the cells of pyramid levels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mambarium.errors import InputError
from mambarium.tasks.dense.maps import grid_size, inside


class GridAnchors(AnchorGenerator):
    """torchvision's anchors with the levels' true strides, which it otherwise guesses from sizes that may be padded.

    `sizes` are for each level those of its anchors, square roots of their areas in pixels; ratios are height by width.

    Raises:
        InputError: If there are not as many lists of sizes as strides.
    """

    def __init__(
        self, strides: Sequence[int], sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float]
    ) -> None:
        if len(sizes) != len(strides):
            raise InputError(f"{len(sizes)} anchor sizes for {len(strides)} strides {list(strides)}; give one for each")
        super().__init__(tuple(tuple(each) for each in sizes), (tuple(aspect_ratios),) * len(strides))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image (anchors, 4) corners, cell by cell, level after level."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        steps = [[torch.tensor(stride, device=feature_maps[0].device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([list(level.shape[-2:]) for level in feature_maps], steps)
        return [torch.cat(levels)] * len(image_list.image_sizes)


def level_lengths(image_size: tuple[int, int], strides: Sequence[int], anchors_per_cell: int = 1) -> list[int]:
    """Return the number of anchors of each level."""
    sizes = [grid_size(image_size, stride) for stride in strides]
    return [height * width * anchors_per_cell for height, width in sizes]


def center_boxes(image_size: tuple[int, int], strides: Sequence[int], device: torch.device) -> Tensor:
    """Return corners (cells, 4) of a square of the stride's size around each cell's centre, level after level."""
    levels = []
    for stride in strides:
        rows, columns = (torch.arange(length, device=device) * stride for length in grid_size(image_size, stride))
        top, left = torch.meshgrid(rows, columns, indexing="ij")
        corner = torch.stack([left, top], dim=-1).reshape(-1, 2)
        levels.append(torch.cat([corner, corner + stride], dim=1))
    return torch.cat(levels).float()


def cells_inside(
    valid_size: Tensor, image_size: tuple[int, int], strides: Sequence[int], anchors_per_cell: int = 1
) -> Tensor:
    """Which anchors (batch, anchors) belong to cells that show a part of images of `valid_size` (batch, 2)."""
    levels = [inside(valid_size, grid_size(image_size, stride), stride).flatten(1) for stride in strides]
    return torch.cat(levels, dim=1).repeat_interleave(anchors_per_cell, dim=1)

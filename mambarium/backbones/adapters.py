"""A sequence backbone on images."""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, SequenceBackbone, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_multiples
from mambarium.backbones.layers.heads import PooledClassifier
from mambarium.backbones.layers.patches import PatchEmbedding, resize_positions, resize_stored_positions
from mambarium.backbones.layers.routes import route_named
from mambarium.errors import InputError
from mambarium.kernels.grid.routes import Route, visited_positions
from mambarium.private_names.torch import keep_as_constant_in_graphs


class SequenceOnImages(VisionBackbone):
    """Any sequence backbone on an image's patches, from images to one map.

    Patches that do not overlap are embedded, learned positions are added, and the backbone reads them as one sequence.
    It is causal: along one route, a patch hears only of those before it. With several routes the same backbone, with
    the same weights, reads the image along each, and the map is the mean of what it says of a patch; with
    ("rows", "rows_backwards") every patch hears of all others. Each route costs one pass.

    Args:
        backbone: The sequence backbone; its width is the patches'.
        image_size: Height and width of the images for which positions are learned; for others they are interpolated.
        patch_size: Height and width of a patch.
        routes: Orders in which the patches are read: "rows", "columns" or "window_N" (window by window of NxN patches),
            each also with "_backwards".
    """

    no_weight_decay = ("pos_embed",)

    def __init__(
        self,
        backbone: SequenceBackbone,
        image_size: int = 32,
        patch_size: int = 4,
        routes: tuple[str, ...] = ("rows",),
    ) -> None:
        super().__init__()
        check_at_least("patch_size", patch_size, 1)
        if not routes:
            raise InputError("SequenceOnImages needs at least one of routes, such as rows")
        self.routes = tuple(route_named(name) for name in routes)
        self.patch_size = patch_size
        self.size_divisibility = patch_size
        self.feature_info = (FeatureInfo(backbone.width, patch_size),)
        self.grid_size = self._grid(image_size, image_size)

        self.backbone = backbone
        self.patch_embed = PatchEmbedding(patch_size, patch_size, backbone.width)
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid_size[0] * self.grid_size[1], backbone.width))
        self._inner_depths = sorted({backbone.depth_of(name) for name, _ in backbone.named_parameters()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Positions from a truncated normal distribution."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> VisionFeatures:
        check_images(images)
        grid = self._grid(images.shape[-2], images.shape[-1])
        x = self.patch_embed(images) + resize_positions(self.pos_embed, self.grid_size, grid)
        order, step_of_patch = (indices.to(x.device) for indices in _orders(self.routes, grid))
        # (batch, patches, width) to (routes * batch, patches, width): all routes in one pass.
        output = self.backbone(torch.cat([x.index_select(1, steps) for steps in order]))
        by_route = output.features.chunk(len(self.routes))
        y = sum(y.index_select(1, steps) for y, steps in zip(by_route, step_of_patch, strict=True)) / len(self.routes)
        return VisionFeatures([y.transpose(1, 2).unflatten(2, grid)], None, output.auxiliary_losses)

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Return a linear head on the mean over all patches."""
        return PooledClassifier(self.feature_info[0].channels, num_classes)

    def repeated_blocks(self) -> list[nn.Module]:
        """Those of the sequence backbone."""
        return self.backbone.repeated_blocks()

    def depth_of(self, parameter_name: str) -> int:
        """0 for patches and positions, then the backbone's layers from 1."""
        part, _, inner = parameter_name.partition(".")
        return 1 + self._inner_depths.index(self.backbone.depth_of(inner)) if part == "backbone" else 0

    def stages(self) -> list[list[str]]:
        """Patches and positions, then the backbone's layers."""
        stages: list[list[str]] = [[] for _ in range(len(self._inner_depths) + 1)]
        for name, _ in self.named_parameters():
            stages[self.depth_of(name)].append(name)
        return stages

    def resized(self, parameter_name: str, stored: Tensor) -> Tensor | None:
        """Positions of another square grid, bicubically interpolated; the backbone's parameters as it does itself."""
        part, _, inner = parameter_name.partition(".")
        if part == "backbone":
            return self.backbone.resized(inner, stored)
        if parameter_name != "pos_embed":
            return None
        return resize_stored_positions(stored, self.grid_size, self.backbone.width, "first", False)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return check_multiples(f"SequenceOnImages with patch_size {self.patch_size}", height, width, self.patch_size)


@functools.lru_cache(maxsize=64)
@keep_as_constant_in_graphs
def _orders(routes: tuple[Route, ...], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(routes, patches) the patch at each step of a route, and the step of each patch."""
    visited = visited_positions(routes, *grid).astype(np.int64)
    return torch.from_numpy(visited), torch.from_numpy(visited.argsort(axis=1))

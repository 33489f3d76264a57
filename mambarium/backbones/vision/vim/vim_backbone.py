"""Vim (Vision Mamba): bidirectional Mamba blocks on image patches.

"Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model" (Zhu et al.
2024, arXiv 2401.09417), as in the official `hustvl/Vim` (`models_mamba.py`, block type "v2").
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionBackbone, VisionFeatures
from mambarium.backbones.layers.arguments import MambaSizes, check_images, check_rate, mamba_sizes
from mambarium.backbones.layers.drop_path import DropPath, drop_path_rates
from mambarium.backbones.layers.initialization import draw_output_projection
from mambarium.backbones.layers.patches import PatchEmbedding, resize_stored_positions, resize_token_positions
from mambarium.backbones.layers.selective_ssm import SelectiveSSM
from mambarium.errors import InputError


class TokenStack(VisionBackbone):
    """Blocks on an image's patches with a class token in their middle or without: what Vim and LocalVim have in common.

    `blocks` are built after the embedding, from input to output.
    """

    layer_patterns = ((r"layers\.(\d+)\.", 0),)
    no_weight_decay = ("pos_embed", "cls_token")

    @abstractmethod
    def __init__(
        self,
        image_size: int,
        patch_size: int,
        stride: int,
        width: int,
        patch_embed: nn.Module,
        blocks: Iterable[nn.Module],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.width, self.patch_size, self.stride, self.size_divisibility = width, patch_size, stride, stride
        self.feature_info = (FeatureInfo(width, stride),)
        self.grid_size = self._grid(image_size, image_size)
        num_patches = self.grid_size[0] * self.grid_size[1]
        self.patch_embed = patch_embed
        self.layers = nn.ModuleList(blocks)
        self.pos_embed = nn.Parameter(torch.empty(1, num_patches + int(class_token), width))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Positions from a truncated normal distribution."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> VisionFeatures:
        check_images(images)
        grid = self._grid(images.shape[-2], images.shape[-1])
        x = self.embed(images)  # (batch, patches, width)
        middle = x.shape[1] // 2
        if self.cls_token is not None:
            token = self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype)
            x = torch.cat([x[:, :middle], token, x[:, middle:]], dim=1)
        positions = resize_token_positions(self.pos_embed, self.grid_size, grid, self.cls_token is not None)
        x = self.run_blocks(x + positions, grid)
        class_token = None
        if self.cls_token is not None:
            class_token = x[:, middle]
            x = torch.cat([x[:, :middle], x[:, middle + 1 :]], dim=1)
        return VisionFeatures([self.cells(x.transpose(1, 2).unflatten(2, grid))], class_token, {})

    def embed(self, images: Tensor) -> Tensor:
        """Patches (batch, patches, width) of images, row by row."""
        return self.patch_embed(images)

    @abstractmethod
    def run_blocks(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what all blocks make of tokens (batch, tokens, width), in float32."""

    def cells(self, patches: Tensor) -> Tensor:
        """Return the map of patches (batch, width, rows, columns)."""
        return patches

    def classifier(self, num_classes: int) -> "VimClassifier":
        """Return final norm and linear head on the class token, or on the patches' mean without one."""
        return VimClassifier(self.width, num_classes)

    def resized(self, parameter_name: str, stored: Tensor) -> Tensor | None:
        """Positions of another square grid, bicubically interpolated as in the official code.

        The class token's position is the middle one, before and after; it is left out if there is no class token here.
        Vim's official code takes the first one instead, so that its patches' positions are off by one up to the middle.
        LocalVim's also interpolates the rotary positions of its checkpoints; here they are those of the grid. To have
        them interpolated, keep the checkpoint's `image_size` and give images of the other size.
        """
        if parameter_name != "pos_embed":
            return None
        return resize_stored_positions(stored, self.grid_size, self.width, "middle", self.cls_token is not None)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        if min(height, width) < self.patch_size or height % self.stride or width % self.stride:
            stride = "" if self.stride == self.patch_size else f" and stride {self.stride}"
            raise InputError(
                f"{type(self).__name__} with patch_size {self.patch_size}{stride} takes height and width that are "
                f"multiples of {self.stride} and at least {self.patch_size}, got {height}x{width}"
            )
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1


class Vim(TokenStack):
    """Vision Mamba, from images to one map of patch features and the class token.

    The features are the residual sum before the final norm, which belongs to `classifier`. Patches that overlap (stride
    below patch_size) are not padded, as in the published stride-8 models, so that there are (height - patch_size) /
    stride + 1 rows of them; the map has one cell per stride, each taken from the patches around its centre.

    Args:
        image_size: Height and width of the images for which positions are learned; for others they are
            interpolated.
        patch_size: Height and width of a patch.
        stride: Distance of patches, a divisor of patch_size; patch_size if None.
        width: Size of a patch's vector.
        depth: Number of blocks.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolutions, 2 to 4.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step; "auto" is ceil(width / 16).
        class_token: Put a class token in the middle of the patches; without it classification averages them.
        drop_path: Probability of dropping the last block for a sample in training; linearly less before.
        dropout: Share of the embedded patches' values set to zero in training.
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        stride: int | None = None,
        width: int = 128,
        depth: int = 6,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        class_token: bool = True,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        sizes = mamba_sizes(width, depth, d_state, d_conv, expand, dt_rank)
        check_rate("dropout", dropout)
        stride = patch_size if stride is None else stride
        if not 1 <= stride <= patch_size or patch_size % stride:
            raise InputError(f"Vim's stride {stride} must divide its patch_size {patch_size}")
        patch_embed = PatchEmbedding(patch_size, stride, width)
        blocks = (VimBlock(BidirectionalMixer(sizes, depth), width, rate) for rate in drop_path_rates(drop_path, depth))
        super().__init__(image_size, patch_size, stride, width, patch_embed, blocks, class_token)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Positions and class token from a truncated normal distribution."""
        super().reset_parameters()
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        residual = self.dropout(tokens).float()
        for layer in self.layers:
            residual = layer(residual)
        return residual

    def cells(self, patches: Tensor) -> Tensor:
        """Values at the centres of cells of one stride, (batch, width, height / stride, width / stride).

        A patch's centre lies patch_size / 2 behind its start, a cell's only stride / 2: the cells reach beyond the
        outermost centres, whose values are repeated, and lie between centres if the two differ by half a stride.
        """
        ratio = self.patch_size // self.stride
        if ratio == 1:
            return patches
        padded = F.pad(patches, (ratio // 2,) * 4, mode="replicate")
        return padded if ratio % 2 else F.avg_pool2d(padded, 2, stride=1)


class VimBlock(nn.Module):
    """Pre-norm residual block: residual + mixer(norm(residual)), the residual in float32."""

    def __init__(self, mixer: nn.Module, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, residual: Tensor, *context: Any) -> Tensor:
        """(batch, tokens, width) to the same."""
        return residual + self.drop_path(self.mixer(self.norm(residual.to(self.norm.weight.dtype)), *context))


class BidirectionalMixer(nn.Module):
    """Algorithm 1 of the paper: one selective SSM reads the tokens forwards, one backwards.

    Both share the projection before them and, on their mean, the one after them.
    """

    def __init__(self, sizes: MambaSizes, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.in_proj = nn.Linear(sizes.width, 2 * sizes.d_inner, bias=False)
        self.forward_ssm = SelectiveSSM(sizes.d_inner, sizes.d_state, sizes.d_conv, sizes.dt_rank)
        self.backward_ssm = SelectiveSSM(sizes.d_inner, sizes.d_state, sizes.d_conv, sizes.dt_rank)
        self.out_proj = nn.Linear(sizes.d_inner, sizes.width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale the output projection by depth.

        The backward direction's time steps start at softplus(0), as in the official code.
        """
        draw_output_projection(self.out_proj, self.num_layers)
        nn.init.zeros_(self.backward_ssm.dt_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        xz = self.in_proj(x)  # (batch, tokens, 2 * d_inner)
        x, z = xz.chunk(2, dim=-1)
        forwards, _ = self.forward_ssm(x, z)
        backwards, _ = self.backward_ssm(x, z, reverse=True)
        return self.out_proj((forwards + backwards) * 0.5)


class VimClassifier(nn.Module):
    """Final norm and linear head."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm_f = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a truncated normal weight, and a zero bias."""
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: VisionFeatures) -> Tensor:
        """Vim's features to logits (batch, num_classes)."""
        if features.class_token is not None:
            return self.head(self.norm_f(features.class_token.to(self.norm_f.weight.dtype)))
        tokens = features.maps[0].flatten(2).transpose(1, 2)  # (batch, tokens, width)
        return self.head(self.norm_f(tokens.to(self.norm_f.weight.dtype)).mean(dim=1))


# Table 1 of the paper and the official factories, with the drop path of their training scripts.
VARIANTS: dict[str, Callable[[], Vim]] = {
    "vim_tiny": partial(Vim, image_size=224, patch_size=16, width=192, depth=24),
    "vim_tiny_stride8": partial(Vim, image_size=224, patch_size=16, stride=8, width=192, depth=24),
    "vim_small": partial(Vim, image_size=224, patch_size=16, width=384, depth=24, drop_path=0.05),
    "vim_base": partial(Vim, image_size=224, patch_size=16, width=768, depth=24, drop_path=0.1),
}

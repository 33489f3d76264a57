"""LocalVim: Vim whose blocks scan the patches along four routes of their own, in windows among them.

"LocalMamba: Visual State Space Model with Windowed Selective Scan" (Huang et al. 2024, arXiv 2403.09338), as in the
official `hunto/LocalMamba` (`local_vim.py`, `multi_mamba.py`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from mambarium.backbones.layers.arguments import MambaSizes, check_at_least, mamba_sizes
from mambarium.backbones.layers.convolutions import Linear
from mambarium.backbones.layers.drop_path import drop_path_rates
from mambarium.backbones.layers.initialization import draw_output_projection
from mambarium.backbones.layers.patches import resize_positions
from mambarium.backbones.layers.routes import route_named
from mambarium.backbones.layers.selective_ssm import SelectiveSSM
from mambarium.backbones.vision.local_mamba.local_scan import UNSEARCHED, ChannelGate, Visit, routes_of, visit
from mambarium.backbones.vision.vim.vim_backbone import TokenStack, VimBlock
from mambarium.errors import InputError
from mambarium.kernels.grid.routes import Route

# Rotary positions count the grid as this many rows and columns, however many there are.
_ROTARY_LENGTH = 14


class LocalVim(TokenStack):
    """LocalVim, from images to one map of patch features and the class token.

    The features are the residual sum before the final norm, which belongs to `classifier`.

    Args:
        image_size: Height and width of the images for which positions are learned; for others they are interpolated.
        patch_size: Height and width of a patch.
        width: Size of a patch's vector, a multiple of 4.
        routes: The routes of each block, any number; as many blocks as entries. A route is "rows", "columns" or
            "window_N" (window by window of NxN patches), each also with "_backwards".
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolutions, 2 to 4.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step; "auto" is ceil(width / 16).
        class_token: Put a class token in the middle of the patches. Without it positions are rotary too, and
            classification averages the patches.
        drop_path: Probability of dropping the last block for a sample in training; linearly less before.
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        width: int = 128,
        routes: tuple[tuple[str, ...], ...] = (UNSEARCHED,) * 4,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        class_token: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        depth = len(routes)
        check_at_least("LocalVim's number of routes entries, one for each block,", depth, 1)
        check_at_least("the number of routes of a LocalVim block", min(len(names) for names in routes), 1)
        check_at_least("patch_size", patch_size, 1)
        sizes = mamba_sizes(width, depth, d_state, d_conv, expand, dt_rank)
        if width % 4:
            raise InputError(f"LocalVim's width must be a multiple of 4, got {width}")
        of_block = [tuple(map(route_named, names)) for names in routes]
        patch_embed = nn.Conv2d(3, width, patch_size, stride=patch_size)
        blocks = (
            VimBlock(LocalMixer(sizes, depth, of_one), width, rate)
            for of_one, rate in zip(of_block, drop_path_rates(drop_path, depth), strict=True)
        )
        super().__init__(image_size, patch_size, patch_size, width, patch_embed, blocks, class_token)
        self.routes = {route for of_one in of_block for route in of_one}

    def reset_parameters(self) -> None:
        """Positions from a truncated normal distribution, the class token zero."""
        super().reset_parameters()
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)

    def embed(self, images: Tensor) -> Tensor:
        # Of the positions' type: autocast must not round the class token to that of the patches.
        return self.patch_embed(images).flatten(2).transpose(1, 2).to(self.pos_embed.dtype)

    def run_blocks(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        residual = tokens.float()
        rotation = None
        if self.cls_token is None:
            rotation = _rotation(self.width, self.grid_size, grid, tokens.device)
        visits = {route: visit(route, grid, self.cls_token is not None, tokens.device) for route in self.routes}
        for layer in self.layers:
            if rotation is not None:
                residual = _rotate(residual, *rotation)
            residual = layer(residual, visits)
        return residual


class LocalMixer(nn.Module):
    """One selective SSM along each route, its output gated; the sum is projected."""

    def __init__(self, sizes: MambaSizes, num_layers: int, routes: tuple[Route, ...]) -> None:
        super().__init__()
        self.num_layers, self.routes = num_layers, routes
        self.in_proj = Linear(sizes.width, 2 * sizes.d_inner, bias=False)
        self.ssms = nn.ModuleList(
            SelectiveSSM(sizes.d_inner, sizes.d_state, sizes.d_conv, sizes.dt_rank) for _ in routes
        )
        self.out_proj = Linear(sizes.d_inner, sizes.width, bias=False)
        self.gate = ChannelGate(sizes.d_inner)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the official code leaves it: all projections truncated normal, so time steps start at softplus(0).

        The output projection is scaled by depth.
        """
        for ssm in self.ssms:
            assert isinstance(ssm, SelectiveSSM)
            nn.init.trunc_normal_(ssm.x_proj.weight, std=0.02)
            nn.init.trunc_normal_(ssm.dt_proj.weight, std=0.02)
            nn.init.zeros_(ssm.dt_proj.bias)
        draw_output_projection(self.out_proj, self.num_layers)

    def forward(self, x: Tensor, visits: Mapping[Route, Visit]) -> Tensor:
        """(batch, tokens, width) to the same."""
        xz = self.in_proj(x)  # (batch, tokens, 2 * d_inner)
        total: Tensor | None = None
        for route, ssm in zip(self.routes, self.ssms, strict=True):
            along = visits[route]
            steps, _ = ssm(*along.arrange(xz).chunk(2, dim=-1), reverse=along.reverse)
            gated = self.gate(along.restore(steps))
            total = gated if total is None else total + gated
        return self.out_proj(total)


def _rotation(
    width: int, learned: tuple[int, int], grid: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary positions' angles, (1, patches, width / 2) each.

    The first half turns with the row, the second with the column. For another grid than the learned one they are
    interpolated, as the official code does.
    """
    frequencies = 10000.0 ** (-torch.arange(0, width // 2, 2, device=device) / (width // 2))
    rows, columns = (torch.arange(n, device=device) / n * _ROTARY_LENGTH for n in learned)
    angles = torch.cat(
        [
            torch.outer(rows, frequencies)[:, None].expand(-1, len(columns), -1),
            torch.outer(columns, frequencies)[None].expand(len(rows), -1, -1),
        ],
        dim=-1,
    ).flatten(0, 1)[None]
    return resize_positions(angles.cos(), learned, grid), resize_positions(angles.sin(), learned, grid)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of (batch, patches, width) by its angle."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


# What the search found for the tiny model; the small one has the same (as the official segmentation configuration of
# its checkpoint says: a second definition of that name in `local_vim.py`, with the routes without search, is a slip).
_SEARCHED = routes_of(
    "h v' w7 w7', h' w2' w7 w7', h h' v w7, h h' v v', h h' v v', h h' v v', h' v v' w7, h' v v' w2', "
    "h h' v v', h h' v v', h v v' w2, h v v' w2', h h' v' w7, h' v v' w2, h h' v v', h v w2 w2', "
    "v v' w2 w7, h h' v w2, h h' w2' w7, v v' w2 w2'"
)
_PUBLISHED = partial(LocalVim, image_size=224, patch_size=16, routes=_SEARCHED, drop_path=0.1)

# Table 1 of the paper and the official factories, with the drop path of the training commands.
VARIANTS: dict[str, Callable[[], LocalVim]] = {
    "local_vim_tiny": partial(_PUBLISHED, width=192),
    "local_vim_tiny_class_token": partial(_PUBLISHED, width=192, class_token=True),
    "local_vim_small": partial(_PUBLISHED, width=384),
}

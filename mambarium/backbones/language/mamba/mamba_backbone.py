"""Mamba: a stack of selective state-space blocks.

"Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (Gu and Dao 2023, arXiv 2312.00752),
section 3.4, as in the official `state-spaces/mamba` (`mixer_seq_simple.py`, `mamba_simple.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import State
from mambarium.backbones.layers.arguments import MambaSizes, check_rate, mamba_sizes
from mambarium.backbones.layers.initialization import draw_output_projection
from mambarium.backbones.layers.residual_stack import Block, BlockOutput, ResidualStack
from mambarium.backbones.layers.selective_ssm import SelectiveSSM
from mambarium.backbones.layers.sequences import Boundaries


class Mamba(ResidualStack):
    """Mamba, from vectors to features, with its final norm.

    Args:
        width: Size of the vectors (`d_model`).
        depth: Number of blocks.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolution, 2 to 4.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step; "auto" is ceil(width / 16).
        dropout: Share of a block's outputs set to zero in training.
        residual_in_fp32: Keep the sum of the blocks' outputs in at least float32 whatever the input's type.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dropout: float = 0.0,
        residual_in_fp32: bool = True,
    ) -> None:
        sizes = mamba_sizes(width, depth, d_state, d_conv, expand, dt_rank)
        check_rate("dropout", dropout)
        super().__init__(width, (MambaBlock(sizes, depth, dropout) for _ in range(depth)), residual_in_fp32)


class MambaBlock(Block):
    """Pre-norm residual block: residual + mixer(norm(residual)).

    Its state is convolution (batch, d_inner, d_conv - 1) and scan (batch, d_inner, d_state).
    """

    def __init__(self, sizes: MambaSizes, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(sizes.width, eps=1e-5)
        self.mixer = MambaMixer(sizes, num_layers)
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros."""
        return cast(State, self.mixer.ssm.initial_state(batch_size, device, dtype))

    def forward(self, residual: Tensor, state: dict[str, Tensor] | None, chunk: Boundaries | None) -> BlockOutput:
        mixed, state = self.mixer(self.norm(residual.to(self.norm.weight.dtype)), state, chunk)
        return BlockOutput(residual + self.dropout(mixed), cast(State, state), {})


class MambaMixer(nn.Module):
    """The Mamba block of the paper's figure 3: project to input and gate, selective SSM, project back."""

    def __init__(self, sizes: MambaSizes, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.in_proj = nn.Linear(sizes.width, 2 * sizes.d_inner, bias=False)
        self.ssm = SelectiveSSM(sizes.d_inner, sizes.d_state, sizes.d_conv, sizes.dt_rank)
        self.out_proj = nn.Linear(sizes.d_inner, sizes.width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale the output projection by depth."""
        draw_output_projection(self.out_proj, self.num_layers)

    def forward(
        self, x: Tensor, state: dict[str, Tensor] | None = None, boundaries: Boundaries | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(batch, length, width) to the same, and the new state."""
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (batch, length, d_inner) each
        y, state = self.ssm(x, z, state, boundaries)
        return self.out_proj(y), state


# The sizes of table 12 of the paper.
VARIANTS: dict[str, Callable[[], Mamba]] = {
    "mamba_130m": partial(Mamba, width=768, depth=24),
    "mamba_370m": partial(Mamba, width=1024, depth=48),
    "mamba_790m": partial(Mamba, width=1536, depth=48),
    "mamba_1.4b": partial(Mamba, width=2048, depth=48),
    "mamba_2.8b": partial(Mamba, width=2560, depth=64),
}

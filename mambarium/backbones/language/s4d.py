"""S4D: a stack of diagonal linear state-space models, whose parameters do not depend on the input.

"On the Parameterization and Initialization of Diagonal State Space Models" (Gu et al. 2022, arXiv 2206.11893). The
layers are those of the official `state-spaces/s4` (`models/s4/s4d.py`), in the pre-norm blocks with RMSNorm that the
other families have.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import State
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.diagonal_ssm import DiagonalSSM, Discretization, StateMatrix
from mambarium.backbones.layers.residual_stack import Block, BlockOutput, ResidualStack
from mambarium.backbones.layers.sequences import Boundaries
from mambarium.backbones.published.family import Family


class S4D(ResidualStack):
    """S4D, from vectors to features, with a final norm.

    Args:
        width: Size of the vectors.
        depth: Number of blocks.
        d_state: Size of one channel's state, an even number: half of it are complex numbers.
        state_matrix: How A and B start: "legs" (the diagonal of HiPPO-LegS), "lin" (-1/2 + i pi n), "inv" (its
            approximation by inverses) or "real" (-(n + 1)).
        discretization: "zoh", exact for inputs constant over a time step, or "bilinear".
        dropout: Share of the values before and after a block's last projection set to zero in training.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 6,
        d_state: int = 64,
        state_matrix: StateMatrix = "lin",
        discretization: Discretization = "zoh",
        dropout: float = 0.0,
    ) -> None:
        check_at_least("width", width, 1)
        check_at_least("depth", depth, 1)
        check_rate("dropout", dropout)
        super().__init__(
            width,
            (S4DBlock(width, DiagonalSSM(width, d_state, state_matrix, discretization), dropout) for _ in range(depth)),
        )


class S4DBlock(Block):
    """Pre-norm residual block: residual + glu(out_proj(gelu(ssm(norm(residual)))))."""

    def __init__(self, width: int, ssm: DiagonalSSM, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.ssm = ssm
        self.out_proj = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros, in at least float32."""
        return self.ssm.initial_state(batch_size, device, dtype)

    def forward(self, residual: Tensor, state: Tensor | None, chunk: Boundaries | None) -> BlockOutput:
        y, state = self.ssm(self.norm(residual.to(self.norm.weight.dtype)), state, chunk)
        mixed = F.glu(self.out_proj(self.dropout(F.gelu(y))), dim=-1)
        return BlockOutput(residual + self.dropout(mixed), state, {})


FAMILY = Family(S4D)

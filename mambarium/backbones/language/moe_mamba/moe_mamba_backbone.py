"""MoE-Mamba: Mamba layers that alternate with switch layers.

"MoE-Mamba: Efficient Selective State Space Models with Mixture of Experts" (Pioro et al. 2024, arXiv 2401.04081),
sections 3.2 and 4.3. Norms are Mamba's, so that the two families differ in the experts alone; the official code
(`llm-random`) has LayerNorm in their place and none at the end.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import SequenceOutput, State
from mambarium.backbones.language.mamba.mamba_backbone import MambaMixer
from mambarium.backbones.language.moe_mamba.switch import Overflow, SwitchFeedForward
from mambarium.backbones.layers.arguments import check_at_least, check_rate, mamba_sizes
from mambarium.backbones.layers.residual_stack import Block, BlockOutput, ResidualStack
from mambarium.backbones.layers.sequences import Boundaries
from mambarium.backbones.published.family import Counted, Family, Published


class MoEMamba(ResidualStack):
    """MoE-Mamba, from vectors to features, with its final norm.

    The loss that keeps the experts evenly used is returned as the auxiliary loss "balance", the sum over the layers
    times `balance_weight`.

    Args:
        width: Size of the vectors.
        depth: Number of blocks, each a Mamba layer and a switch layer.
        num_experts: Number of experts in a switch layer, of which a token uses one.
        expert_width: Size of an expert's hidden layer; 3 * width if None, with which a token's expert has as many
            parameters as a Mamba layer.
        capacity_factor: Tokens an expert may serve in training, per token of an even share; the others
            pass by on the residual path. None serves all. Evaluation always serves all.
        overflow: Who is served in training by an expert that too many tokens chose: by "position" the earlier ones in
            their sequences, by "probability" those of which the router is surest.
        balance_weight: Weight of the balance loss.
        parallel: Give both layers of a block the same input and add their outputs, instead of one after the other.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolution, 2 to 4.
        expand: Inner channels per channel of the width.
        dt_rank: Rank of the projection to the time step; "auto" is ceil(width / 16).
        dropout: Share of a layer's outputs set to zero in training.
        residual_in_fp32: Keep the sum of the layers' outputs in at least float32 whatever the input's type.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 2,
        num_experts: int = 8,
        expert_width: int | None = None,
        capacity_factor: float | None = 1.0,
        overflow: Overflow = "position",
        balance_weight: float = 0.01,
        parallel: bool = False,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dropout: float = 0.0,
        residual_in_fp32: bool = True,
    ) -> None:
        sizes = mamba_sizes(width, depth, d_state, d_conv, expand, dt_rank)
        check_at_least("balance_weight", balance_weight, 0)
        check_rate("dropout", dropout)
        hidden = 3 * width if expert_width is None else expert_width
        blocks = (
            MoEMambaBlock(
                MambaMixer(sizes, 2 * depth),
                SwitchFeedForward(width, hidden, num_experts, capacity_factor, overflow),
                width,
                parallel,
                dropout,
            )
            for _ in range(depth)
        )
        super().__init__(width, blocks, residual_in_fp32)
        self.balance_weight = balance_weight

    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        """Features of every position, and the balance loss; see `ResidualStack.forward`."""
        output = super().forward(x, state, document_ids=document_ids)
        balance = self.balance_weight * output.auxiliary_losses["balance"]
        return output._replace(auxiliary_losses={"balance": balance})


class MoEMambaBlock(Block):
    """Two pre-norm residual layers: `mixer`, then or beside it `switch`, which remembers nothing."""

    def __init__(
        self, mixer: MambaMixer, switch: SwitchFeedForward, width: int, parallel: bool, dropout: float
    ) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(width, eps=1e-5)
        self.mixer = mixer
        self.switch_norm = nn.RMSNorm(width, eps=1e-5)
        self.switch = switch
        self.dropout = nn.Dropout(dropout)
        self.parallel = parallel

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros."""
        return cast(State, self.mixer.ssm.initial_state(batch_size, device, dtype))

    def forward(self, residual: Tensor, state: dict[str, Tensor] | None, chunk: Boundaries | None) -> BlockOutput:
        """See `Block.forward`; the balance loss is without its weight."""
        mixed, state = self.mixer(self.mixer_norm(residual.to(self.mixer_norm.weight.dtype)), state, chunk)
        after_mixer = residual + self.dropout(mixed)
        switch_input = residual if self.parallel else after_mixer
        switched, balance = self.switch(self.switch_norm(switch_input.to(self.switch_norm.weight.dtype)))
        return BlockOutput(after_mixer + self.dropout(switched), cast(State, state), {"balance": balance})


# The sizes of the paper's table 1 and appendix.
VARIANTS: dict[str, Callable[[], MoEMamba]] = {
    "moe_mamba_25m": partial(MoEMamba, width=512, depth=8, num_experts=42),
    "moe_mamba_100m": partial(MoEMamba, width=768, depth=16, num_experts=42),
}

FAMILY = Family(
    MoEMamba,
    VARIANTS,
    {
        "moe_mamba_25m": Published(3.19, "C4 training log-perplexity", 1024, None, "Pioro et al. 2024, table 2"),
        "moe_mamba_100m": Published(2.81, "C4 training log-perplexity", 1024, None, "Pioro et al. 2024, table 2"),
    },
    counted={
        "moe_mamba_25m": Counted(567_964_160, 53.56),
        "moe_mamba_100m": Counted(2_477_660_928, 160.29),
    },
)

"""A feed-forward layer of many experts, of which each token uses one."""

import math
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.layers.arguments import check_at_least, check_choice
from mambarium.errors import InputError

Overflow = Literal["position", "probability"]

INIT_SCALE = 0.1
INIT_BOUND = 2 * INIT_SCALE


class SwitchFeedForward(nn.Module):
    """Routes each token to its likeliest expert, a two-layer ReLU network without biases.

    "Switch Transformers" (Fedus et al. 2022, section 2), as MoE-Mamba uses it (Pioro et al. 2024, section 3.2;
    official code `llm-random`, `token_choice.py`):

        p = softmax(router(x)),  e = argmax p,  y = p_e expert_e(x)

    In training an expert serves at most `capacity = int(capacity_factor tokens / experts)` of the call's tokens; the
    others get 0. The official code chooses who is served by the order of a top-k over equal values, that is by chance;
    here it is one of two stated rules. In evaluation every token is served, so none depends on another.
    """

    def __init__(
        self,
        width: int,
        expert_width: int,
        num_experts: int,
        capacity_factor: float | None = 1.0,
        overflow: Overflow = "position",
    ) -> None:
        super().__init__()
        check_at_least("width", width, 1)
        check_at_least("expert_width", expert_width, 1)
        check_at_least("num_experts", num_experts, 1)
        if capacity_factor is not None and not 0 < capacity_factor < math.inf:
            raise InputError(f"capacity_factor must be above 0, or null for no limit, got {capacity_factor}")
        check_choice("overflow", overflow, get_args(Overflow))
        self.num_experts, self.capacity_factor, self.overflow = num_experts, capacity_factor, overflow
        self.router = nn.Linear(width, num_experts, bias=False)
        self.expert_in = nn.Parameter(torch.empty(num_experts, width, expert_width))
        self.expert_out = nn.Parameter(torch.empty(num_experts, expert_width, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from a truncated normal of variance 0.1 / inputs; all experts' inputs count for the second."""
        num_experts, width, expert_width = self.expert_in.shape
        inputs = [(self.router.weight, width), (self.expert_in, width), (self.expert_out, num_experts * expert_width)]
        for weight, fan_in in inputs:
            std = math.sqrt(INIT_SCALE / fan_in)
            nn.init.trunc_normal_(weight, std=std, a=-INIT_BOUND, b=INIT_BOUND)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Route and transform x (batch, length, width).

        Returns the same shape, and the balance loss, a scalar in float32: 1 if tokens and probabilities are spread
        evenly over the experts, up to `num_experts` if one takes all.
        """
        tokens = x.flatten(0, 1)  # (tokens, width)
        # There is no autocast for the meta device, on which shapes and operations are counted.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            probabilities = F.linear(tokens.float(), self.router.weight.float()).softmax(dim=-1)  # (tokens, experts)
        gate, expert = probabilities.max(dim=-1)  # (tokens,)
        chosen = F.one_hot(expert, self.num_experts)  # (tokens, experts)
        balance = self.num_experts * (chosen.float().mean(dim=0) * probabilities.mean(dim=0)).sum()

        counts = chosen.sum(dim=0)  # (experts,)
        if self.training and self.capacity_factor is not None:
            order = self._order_of_service(gate, x.shape[0], x.shape[1])
            served = self._limited(tokens, expert, counts, order, self.capacity_factor)
        else:
            served = self._unlimited(tokens, expert, counts)
        return (served * gate.to(served.dtype).unsqueeze(-1)).view_as(x), balance

    def _order_of_service(self, gate: Tensor, batch_size: int, length: int) -> Tensor:
        """(tokens,) indices of tokens, those first who are served first."""
        if self.overflow == "probability":
            return gate.argsort(descending=True, stable=True)
        return torch.arange(batch_size * length, device=gate.device).view(batch_size, length).T.flatten()

    def _limited(self, tokens: Tensor, expert: Tensor, counts: Tensor, order: Tensor, capacity_factor: float) -> Tensor:
        """All experts at once on tables of `capacity` rows each; shapes do not depend on the routing."""
        num_tokens, width = tokens.shape
        capacity = min(max(int(capacity_factor * num_tokens / self.num_experts), 1), num_tokens)
        by_expert = order[expert[order].argsort(stable=True)]  # tokens, grouped by expert, each group in order
        starts = counts.cumsum(dim=0) - counts
        sorted_expert = expert[by_expert]
        rank = torch.arange(num_tokens, device=tokens.device) - starts[sorted_expert]
        unserved = self.num_experts * capacity
        row = torch.where(rank < capacity, sorted_expert * capacity + rank, unserved)  # of the experts' tables
        table = tokens.new_zeros(unserved + 1, width).index_copy(0, row, tokens[by_expert])
        table = table[:-1].view(self.num_experts, capacity, width)
        result = torch.bmm(torch.bmm(table, self.expert_in).relu(), self.expert_out).flatten(0, 1)
        result = torch.cat([result, result.new_zeros(1, width)])  # the last row is what the unserved get
        return result[torch.empty_like(row).index_copy(0, by_expert, row)]

    def _unlimited(self, tokens: Tensor, expert: Tensor, counts: Tensor) -> Tensor:
        """One expert after the other, on the tokens that chose it."""
        by_expert = expert.argsort(stable=True)
        groups = tokens[by_expert].split(counts.tolist())
        weights = zip(self.expert_in.unbind(), self.expert_out.unbind(), strict=True)
        results = [
            (group @ weight_in).relu() @ weight_out
            for group, (weight_in, weight_out) in zip(groups, weights, strict=True)
            if group.shape[0] > 0
        ]
        return torch.cat(results)[by_expert.argsort()]

    def extra_repr(self) -> str:
        """Return the sizes and the rule of overflow, for `print`."""
        _, width, expert_width = self.expert_in.shape
        return (
            f"width={width}, expert_width={expert_width}, num_experts={self.num_experts}, "
            f"capacity_factor={self.capacity_factor}, overflow={self.overflow}"
        )

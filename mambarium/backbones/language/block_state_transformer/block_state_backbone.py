"""Block-State Transformer: attention within windows, and a state-space model over the whole sequence as their context.

"Block-State Transformers" (Pilault et al. 2023, arXiv 2306.09539); no official code was published. Attention and
feed-forward network are those of the Block-Recurrent Transformer on which it builds. The paper leaves open, and is
settled here:

- every document is cut into windows from its own start, its last window may be short;
- the multi-filter form's shift is by one window, as the paper's text has it: its printed pseudo-code would roll the
  states instead, and let a window see its own end;
- structured filters are S4D's, started as HiPPO-LegS, with a skip for each filter; unstructured ones are Hyena's, and
  end at a stated length, so that decoding remembers a constant number of inputs;
- in the multi-head form keys and values of a head are a linear map of that head's own filters.
"""

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import State
from mambarium.backbones.language.block_state_transformer.explicit_filters import ExplicitFilters
from mambarium.backbones.layers.arguments import check_at_least, check_choice
from mambarium.backbones.layers.diagonal_ssm import DiagonalSSM
from mambarium.backbones.layers.window_stack import Context, WindowChunk, WindowStack, scaled_direction, with_memory
from mambarium.backbones.layers.windows import attend_in_windows, attend_to_states, cut_into_windows
from mambarium.backbones.published.family import Family

ContextForm = Literal["single_head", "multi_head", "multi_filter"]
FilterForm = Literal["structured", "unstructured"]


class BlockStateTransformer(WindowStack):
    """Block-State Transformer, from vectors to features, with its final norm.

    Every layer attends to the last `window_size` positions. A layer with context also attends to what a state-space
    model over the whole document says: in the forms "single_head" and "multi_head" at the positions of the same window
    up to its own, in the form "multi_filter" at the end of the window before.

    Args:
        width: Size of the vectors.
        depth: Number of layers.
        num_heads: Number of attention heads, a divisor of the width.
        window_size: Positions that a position sees, itself included, and length of a context's window.
        context_layers: Which layers have context, counted from 0; the one at three quarters of the depth if None.
        context: "single_head" (SH: one filter per channel, mapped to all heads), "multi_head" (MH: a filter per channel
            for each head) or "multi_filter" (MF: `num_states` filters per channel, each one state of a window).
        filters: "structured" (S4D) or "unstructured" (drawn by a network, `filter_length` long).
        num_states: States of a window in the multi-filter form.
        d_state: Size of one channel's state in structured filters, an even number.
        filter_length: Positions that an unstructured filter covers, that is how far back the context reaches.
        mlp_width: Size of the feed-forward network's hidden layer; 4 * width if None.
        dropout: Share of the outputs of attention and feed-forward network set to zero in training.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        window_size: int = 64,
        context_layers: list[int] | None = None,
        context: ContextForm = "single_head",
        filters: FilterForm = "structured",
        num_states: int = 32,
        d_state: int = 16,
        filter_length: int = 512,
        mlp_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        check_choice("context", context, get_args(ContextForm))
        check_choice("filters", filters, get_args(FilterForm))
        check_at_least("num_states", num_states, 1)

        def new_filters(num_filters: int | None) -> Filters:
            return Filters(width, d_state if filters == "structured" else None, filter_length, num_filters)

        def new_context() -> Context:
            if context == "multi_filter":
                return LastStatesContext(width, num_heads, window_size, num_states, new_filters(num_states))
            per_head = context == "multi_head"
            return SameWindowContext(
                width, num_heads, window_size, per_head, new_filters(num_heads if per_head else None)
            )

        layers = ("context_layers", context_layers)
        super().__init__(width, depth, num_heads, window_size, layers, new_context, mlp_width, dropout)


class Filters(nn.Module):
    """Long convolutions: structured with a `d_state`, or unstructured (None), `filter_length` long.

    Without `num_filters` a channel has one filter, and outputs have no axis for it.
    """

    def __init__(self, width: int, d_state: int | None, filter_length: int, num_filters: int | None) -> None:
        super().__init__()
        self.model: DiagonalSSM | ExplicitFilters
        if d_state is None:
            self.model = ExplicitFilters(width, filter_length, num_filters)
        else:
            self.model = DiagonalSSM(width, d_state, "legs", num_filters=num_filters)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Zeros."""
        return self.model.initial_state(batch_size, device, dtype)

    def forward(
        self, x: Tensor, state: Tensor, chunk: WindowChunk, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (batch, length, width) or (batch, length, width, num_filters), and the new state.

        With positions (batch, count), outputs there alone.
        """
        if isinstance(self.model, ExplicitFilters):
            offset = chunk.windows.offset
            if positions is None:
                return self.model(x, offset, state, chunk.boundaries)
            return self.model.at_positions(x, positions, offset, state)
        if positions is None:
            y, after = self.model(x, state, chunk.boundaries)
        else:
            y, after = self.model.at_positions(x, positions, state, chunk.boundaries)
        return y, cast(Tensor, after)


class SameWindowContext(Context):
    """Attention to what the filters say at the positions of the same window, up to the own one (SH and MH).

    Its state is key and value (batch, window_size, num_heads, head_dim) of the last positions, and the filters'.
    """

    def __init__(self, width: int, num_heads: int, window_size: int, per_head: bool, filters: Filters) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window_size = num_heads, width // num_heads, window_size
        self.filters = filters
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = HeadProjections(width, num_heads) if per_head else nn.Linear(width, 2 * width, bias=False)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales of 1."""
        nn.init.ones_(self.scale)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros; the stack's memory says that they are no positions."""
        shape = (batch_size, self.window_size, self.num_heads, self.head_dim)
        state: dict[str, State] = {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("key", "value")}
        return {**state, "filters": self.filters.initial_state(batch_size, device, dtype)}

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, state: dict[str, Tensor], chunk: WindowChunk
    ) -> tuple[Tensor, State]:
        y, filters_state = self.filters(x, state["filters"], chunk)
        query = scaled_direction(self.query(x).unflatten(-1, (self.num_heads, self.head_dim)), self.scale)
        key, value = self.key_value(y).unflatten(-1, (2, self.num_heads, self.head_dim)).unbind(2)
        key, value, after = with_memory(state, scaled_direction(key), value)
        attended = attend_in_windows(query, key, value, chunk.windows.aligned, chunk.windows)
        return attended.flatten(2), {**after, "filters": filters_state}


class HeadProjections(nn.Module):
    """Keys and values of each head from filters of its own."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, width, 2, width // num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Torch's own draw for a linear map from `width` values."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, y: Tensor) -> Tensor:
        """(batch, length, width, num_heads) to keys and values, all heads' of each, (batch, length, 2 * width)."""
        return torch.einsum("blwh,hwce->blche", y, self.weight).flatten(2)


class LastStatesContext(Context):
    """Attention to what the filters say at the end of the window before, or to learned states in the first one (MF).

    Its state is key and value (batch, num_states, num_heads, head_dim) for the next position, and the filters'.
    """

    no_weight_decay = ("names", "initial")

    def __init__(self, width: int, num_heads: int, window_size: int, num_states: int, filters: Filters) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window_size = num_heads, width // num_heads, window_size
        self.filters = filters
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.names = nn.Parameter(torch.empty(num_states, width))
        self.initial = nn.Parameter(torch.empty(num_states, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales of 1, names ("context IDs") and first states as the Block-Recurrent Transformer's state has them."""
        nn.init.ones_(self.scale)
        nn.init.normal_(self.names)
        nn.init.normal_(self.initial, std=0.1)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros, in whose place a document's first window has the learned states."""
        shape = (batch_size, self.names.shape[0], self.num_heads, self.head_dim)
        state: dict[str, State] = {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("key", "value")}
        return {**state, "filters": self.filters.initial_state(batch_size, device, dtype)}

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, state: dict[str, Tensor], chunk: WindowChunk
    ) -> tuple[Tensor, State]:
        cut = cut_into_windows(chunk.windows.offset, self.window_size)
        y, filters_state = self.filters(x, state["filters"], chunk, cut.last)  # (batch, num_windows, width, num_states)
        query = scaled_direction(self.query(x).unflatten(-1, (self.num_heads, self.head_dim)), self.scale)
        first_key, first_value = self._project(self.initial)  # (num_states, heads, head_dim)
        key, value = (state[name].to(query.dtype).unsqueeze(1) for name in ("key", "value"))
        if bool(cut.complete.any()):
            own_key, own_value = self._project(y.mT)  # (batch, num_windows, num_states, heads, head_dim)
        else:
            own_key, own_value = (tensor.expand(-1, cut.num_windows, -1, -1, -1) for tensor in (key, value))
        key, value = torch.cat([key, own_key[:, :-1]], dim=1), torch.cat([value, own_value[:, :-1]], dim=1)
        first = cut.first[..., None, None, None]
        key, value = torch.where(first, first_key, key), torch.where(first, first_value, value)
        attended = attend_to_states(query, key, value, cut).flatten(2)

        rows, end = torch.arange(x.shape[0], device=x.device), cut.number[:, -1]
        complete = cut.complete[rows, end, None, None, None]
        after: dict[str, State] = {}
        for name, own, before in (("key", own_key, key), ("value", own_value, value)):
            after[name] = torch.where(complete, own[rows, end], before[rows, end]).to(state[name].dtype)
        return attended, {**after, "filters": filters_state}

    def _project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., num_states, heads, head_dim) of states (..., num_states, width)."""
        named = states + self.names.to(states.dtype)
        key, value = self.key_value(named).unflatten(-1, (2, self.num_heads, self.head_dim)).unbind(-3)
        return scaled_direction(key), value


FAMILY = Family(BlockStateTransformer)

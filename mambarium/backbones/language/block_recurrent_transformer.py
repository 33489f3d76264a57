"""Block-Recurrent Transformer: attention within windows, and states that a recurrent cell carries from one to the next.

"Block-Recurrent Transformers" (Hutchins et al. 2022, arXiv 2203.07852) in its best form, a fixed gate and no
feed-forward network in the cell ("Rec:fixed:skip"), as in the official code (`google-research/meliad`,
`transformer_layer.py` with `bias_skip.gin`). Where that lets the first window of a document attend to zeros in place of
a window before it, here nothing is there to attend to.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import State
from mambarium.backbones.layers.arguments import check_at_least
from mambarium.backbones.layers.window_stack import Context, WindowChunk, WindowStack, scaled_direction
from mambarium.backbones.layers.windows import attend_to_states, cut_into_windows
from mambarium.backbones.published.family import Family


class BlockRecurrentTransformer(WindowStack):
    """Block-Recurrent Transformer, from vectors to features, with its final norm.

    Every layer attends to the last `window_size` positions. A recurrent layer also attends to states, which sum up
    what its document has had before the window: at each window's end they attend to themselves and to the last two
    windows, and take some of it in.

    Args:
        width: Size of the vectors.
        depth: Number of layers.
        num_heads: Number of attention heads, a divisor of the width.
        window_size: Positions that a position sees, itself included, and length of a window in the recurrence.
        recurrent_layers: Which layers are recurrent, counted from 0; the one at three quarters of the depth if None.
        num_states: Number of states.
        mlp_width: Size of the feed-forward network's hidden layer; 4 * width if None.
        dropout: Share of the outputs of attention and feed-forward network set to zero in training; none in the cell.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        window_size: int = 64,
        recurrent_layers: list[int] | None = None,
        num_states: int = 64,
        mlp_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        check_at_least("num_states", num_states, 1)
        super().__init__(
            width,
            depth,
            num_heads,
            window_size,
            ("recurrent_layers", recurrent_layers),
            lambda: RecurrentContext(width, num_heads, window_size, num_states),
            mlp_width,
            dropout,
        )


class RecurrentContext(Context):
    """Attention to the states before the window, and the cell that makes the next ones.

    Its state is states (batch, num_states, width), and their key and value (batch, num_states, num_heads, head_dim).
    """

    memory_windows = 2
    no_weight_decay = ("initial",)

    def __init__(self, width: int, num_heads: int, window_size: int, num_states: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window_size = num_heads, width // num_heads, window_size
        self.query = nn.Linear(width, width, bias=False)
        self.cell = RecurrentCell(width, num_heads, num_states)
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.initial = nn.Parameter(torch.empty(num_states, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales of 1, first states that are small."""
        nn.init.ones_(self.scale)
        nn.init.normal_(self.initial, std=0.1)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros, in whose place a document's first window has the learned states; the states in at least float32."""
        num_states, width = self.initial.shape
        heads = (batch_size, num_states, self.num_heads, self.head_dim)
        exact = torch.promote_types(dtype, torch.float32)
        return {
            "states": torch.zeros(batch_size, num_states, width, device=device, dtype=exact),
            "key": torch.zeros(heads, device=device, dtype=dtype),
            "value": torch.zeros(heads, device=device, dtype=dtype),
        }

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, state: dict[str, Tensor], chunk: WindowChunk
    ) -> tuple[Tensor, State]:
        offset = chunk.windows.offset
        cut = cut_into_windows(offset, self.window_size)
        query = scaled_direction(self.query(x).unflatten(-1, (self.num_heads, self.head_dim)), self.scale)
        initial = self.initial.to(state["states"].dtype)
        known = (initial, *self.cell.key_value(initial))
        now = (state["states"], state["key"].to(query.dtype), state["value"].to(query.dtype))
        keys, values = [], []
        for window in range(cut.num_windows):
            now = _choose(cut.first[:, window], known, now)
            keys.append(now[1])
            values.append(now[2])
            complete, last = cut.complete[:, window], cut.last[:, window]
            if bool(complete.any()):
                recent = self._recent(offset, last)
                index = (last[:, None] + 1 + torch.arange(recent.shape[1], device=last.device))[..., None, None]
                index = index.expand(-1, -1, *key.shape[2:])
                states = self.cell(now[0], now[1], now[2], key.gather(1, index), value.gather(1, index), recent)
                now = _choose(complete, (states, *self.cell.key_value(states)), now)
        attended = attend_to_states(query, torch.stack(keys, dim=1), torch.stack(values, dim=1), cut)
        names = ("states", "key", "value")
        after = {name: tensor.to(state[name].dtype) for name, tensor in zip(names, now, strict=True)}
        return attended.flatten(2), {**after}

    def _recent(self, offset: Tensor, last: Tensor) -> Tensor:
        """Which of the two windows' positions up to `last` (batch,) are of its document: (batch, 2 window_size)."""
        distance = torch.arange(2 * self.window_size - 1, -1, -1, device=last.device)
        return distance <= offset.gather(1, last[:, None])


class RecurrentCell(nn.Module):
    """The states' way from one window to the next: attention to themselves and to tokens, then a gate.

    With g = sigmoid(bias), one for each of a state's values: states' = g states + (1 - g) projection(attended).
    """

    no_weight_decay = ("names",)

    def __init__(self, width: int, num_heads: int, num_states: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.key_value_proj = nn.Linear(width, 2 * width, bias=False)
        self.queries = nn.Linear(width, 2 * width, bias=False)
        self.out_proj = nn.Linear(2 * width, width, bias=False)
        self.names = nn.Parameter(torch.empty(num_states, width))
        self.scale = nn.Parameter(torch.empty(num_heads))
        self.token_scale = nn.Parameter(torch.empty(num_heads))
        self.gate_bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Names ("state IDs") standard normal, scales of 1, gates that keep about half."""
        nn.init.normal_(self.names)
        nn.init.ones_(self.scale)
        nn.init.ones_(self.token_scale)
        nn.init.normal_(self.gate_bias, std=0.1)

    def key_value(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., num_states, heads, head_dim) of states (..., num_states, width)."""
        projected = self.key_value_proj(self._named(states)).unflatten(-1, (2, self.num_heads, self.head_dim))
        key, value = projected.unbind(-3)
        return scaled_direction(key), value

    def forward(
        self, states: Tensor, key: Tensor, value: Tensor, token_key: Tensor, token_value: Tensor, known: Tensor
    ) -> Tensor:
        """Return the next states, from states and, with heads (batch, ..., heads, head_dim), their own keys and values.

        `known` (batch, tokens) says which of the tokens there are, at least one.
        """
        queries = self.queries(self._named(states)).unflatten(-1, (2, self.num_heads, self.head_dim))
        own_query, token_query = queries.unbind(-3)
        mask = known[:, None, None]
        own = _attend(scaled_direction(own_query, self.scale), key, value, None)
        tokens = _attend(scaled_direction(token_query, self.token_scale), token_key, token_value, mask)
        new = self.out_proj(torch.cat([own, tokens], dim=-2).flatten(-2))
        gate = self.gate_bias.to(states.dtype).sigmoid()
        return states * gate + new.to(states.dtype) * (1 - gate)

    def _named(self, states: Tensor) -> Tensor:
        return self.norm(states.to(self.norm.weight.dtype)) + self.names


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (batch, queries, heads, head_dim) without scaling by the size of a head."""
    query, key, value = (x.transpose(1, 2).to(query.dtype) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, mask, scale=1.0).transpose(1, 2)


def _choose(
    condition: Tensor, yes: tuple[Tensor, ...], no: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """For each sequence (batch,) one of two sets of states, keys and values, those of `no` giving the type."""
    states, key, value = (
        torch.where(condition.view(-1, *[1] * (b.ndim - 1)), a.to(b.dtype), b) for a, b in zip(yes, no, strict=True)
    )
    return states, key, value


FAMILY = Family(BlockRecurrentTransformer)

"""Block-Recurrent Transformer: its equations window by window, and how far its states reach."""

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import BlockRecurrentTransformer
from mambarium.errors import InputError

WIDTH, HEADS, WINDOW, STATES = 6, 2, 4, 3
DIM = WIDTH // HEADS


def small(recurrent_layers: list[int]) -> BlockRecurrentTransformer:
    torch.manual_seed(0)
    model = BlockRecurrentTransformer(WIDTH, 2, HEADS, WINDOW, recurrent_layers, STATES, mlp_width=7).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def direction(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


def attended(query: Tensor, keys: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """One query (dim) on keys and values (count, dim)."""
    scores = torch.stack([direction(query) * scale.abs() @ direction(key) for key in keys])
    return (scores if bias is None else scores + bias).softmax(0) @ values


def next_states(cell: nn.Module, states: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The cell, one state and one head after the other; keys and values (tokens, heads, dim) of the last windows."""
    named = norm(states, cell.norm.weight) + cell.names
    own_key, own_value = (named @ cell.key_value_proj.weight.T).unflatten(-1, (2, HEADS, DIM)).unbind(1)
    query, token_query = (named @ cell.queries.weight.T).unflatten(-1, (2, HEADS, DIM)).unbind(1)
    rows = []
    for s in range(STATES):
        own = [attended(query[s, h], own_key[:, h], own_value[:, h], cell.scale[h]) for h in range(HEADS)]
        tokens = [attended(token_query[s, h], keys[:, h], values[:, h], cell.token_scale[h]) for h in range(HEADS)]
        rows.append(torch.cat(own + tokens) @ cell.out_proj.weight.T)
    gate = torch.sigmoid(cell.gate_bias)
    return gate * states + (1 - gate) * torch.stack(rows)


def layer_outputs(layer: nn.Module, residual: Tensor) -> Tensor:
    """One sequence (length, width), one position and one head after the other."""
    x = norm(residual, layer.norm.weight)
    query, key, value = (x @ layer.qkv.weight.T).unflatten(-1, (3, HEADS, DIM)).unbind(1)
    context = layer.context
    states = None if context is None else context.initial
    rows = []
    for t in range(x.shape[0]):
        seen = list(range(max(0, t - WINDOW + 1), t + 1))
        biases = layer.position_bias.weight[[t - s for s in seen]]
        heads = [
            attended(query[t, h], key[seen, h], value[seen, h], layer.scale[h], biases[:, h]) for h in range(HEADS)
        ]
        if context is not None:
            if t > 0 and t % WINDOW == 0:
                recent = slice(max(0, t - 2 * WINDOW), t)
                keys = key[recent] / key[recent].pow(2).sum(-1, keepdim=True).sqrt()
                states = next_states(context.cell, states, keys, value[recent])
            named = norm(states, context.cell.norm.weight) + context.cell.names
            state_key, state_value = (
                (named @ context.cell.key_value_proj.weight.T).unflatten(-1, (2, HEADS, DIM)).unbind(1)
            )
            own = (x[t] @ context.query.weight.T).unflatten(-1, (HEADS, DIM))
            heads += [attended(own[h], state_key[:, h], state_value[:, h], context.scale[h]) for h in range(HEADS)]
        rows.append(torch.cat(heads))
    residual = residual + torch.stack(rows) @ layer.out_proj.weight.T
    hidden = (norm(residual, layer.mlp_norm.weight) @ layer.mlp_in.weight.T).clamp(min=0)
    return residual + hidden @ layer.mlp_out.weight.T


@pytest.mark.parametrize("recurrent_layers", [[1], [0, 1]])
@pytest.mark.parametrize("length", [1, WINDOW, 3 * WINDOW + 2])
@torch.no_grad()
def test_features_are_those_of_the_equations(recurrent_layers: list[int], length: int) -> None:
    model = small(recurrent_layers)
    x = torch.randn(2, length, WIDTH, dtype=torch.float64)
    rows = []
    for row in x:
        for layer in model.layers:
            row = layer_outputs(layer, row)
        rows.append(norm(row, model.norm_f.weight))
    torch.testing.assert_close(model(x).features, torch.stack(rows), rtol=1e-8, atol=1e-8)


def test_only_the_states_reach_beyond_the_windows() -> None:
    for recurrent_layers, reaches in (([], False), ([1], True)):
        model = BlockRecurrentTransformer(WIDTH, 2, HEADS, WINDOW, recurrent_layers, STATES)
        x = torch.randn(1, 40, WIDTH, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(x).features[:, -1].pow(2).sum(), x)
        assert bool(gradient[:, 0].abs().max() > 0) == reaches


def test_the_gate_keeps_about_half_at_the_start_and_what_it_is_told_to() -> None:
    model = small([1])
    context = model.layers[1].context
    assert torch.sigmoid(BlockRecurrentTransformer(256, 1).layers[0].context.cell.gate_bias).mean().item() == (
        pytest.approx(0.5, abs=0.02)
    )
    with torch.no_grad():
        context.cell.gate_bias.fill_(100.0)
        state = model(torch.randn(2, 3 * WINDOW, WIDTH).double(), model.initial_state(2)).state
    torch.testing.assert_close(state["layers"][1]["context"]["states"], context.initial.detach().expand(2, -1, -1))


def test_states_and_arguments_that_do_not_fit() -> None:
    other = BlockRecurrentTransformer(WIDTH, 2, HEADS, WINDOW, [1], STATES + 1)
    with pytest.raises(InputError, match="not one of this BlockRecurrentTransformer of 2 layers of width 6"):
        small([1])(torch.zeros(2, 1, WIDTH, dtype=torch.float64), other.initial_state(2))
    for arguments, message in (
        ({"num_states": 0}, "num_states must be at least 1, got 0"),
        ({"depth": 2, "recurrent_layers": [-1]}, r"recurrent_layers must be from 0 to 1, got \[-1\]"),
        ({"width": 6, "num_heads": 4}, "num_heads must divide width, got 4 and 6"),
        ({"mlp_width": 0}, "mlp_width must be at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            BlockRecurrentTransformer(**arguments)

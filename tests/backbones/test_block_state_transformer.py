"""Block-State Transformer, single-head form: its equations position by position, windows, positions' buckets."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones import BlockStateTransformer
from mambarium.backbones.layers.diagonal_ssm import DiagonalSSM
from mambarium.backbones.layers.windows import relative_position_buckets
from mambarium.errors import InputError

WIDTH, HEADS, WINDOW = 6, 2, 5


def small() -> BlockStateTransformer:
    torch.manual_seed(0)
    model = BlockStateTransformer(WIDTH, 2, HEADS, WINDOW, context_layers=[1], d_state=4, mlp_width=7).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def direction(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


def context_outputs(ssm: DiagonalSSM, x: Tensor) -> Tensor:
    """The state-space model's outputs by its recurrence, (length, width)."""
    log_A_bar, B_bar, C = ssm.discretized()
    state, out = torch.zeros_like(B_bar), []
    for u in x:
        state = log_A_bar.exp() * state + B_bar * u[:, None]
        out.append(2 * (C * state).sum(-1).real + ssm.D * u)
    return torch.stack(out)


def layer_outputs(layer: torch.nn.Module, residual: Tensor) -> Tensor:
    """One sequence (length, width), one position and one head after the other."""
    x = norm(residual, layer.norm.weight)
    dim = WIDTH // HEADS
    query, key, value = (x @ layer.qkv.weight.T).unflatten(-1, (3, HEADS, dim)).unbind(1)
    if layer.context is not None:
        y = context_outputs(layer.context.ssm, x)
        own_query = (x @ layer.context.query.weight.T).unflatten(-1, (HEADS, dim))
        context_key, context_value = (y @ layer.context.key_value.weight.T).unflatten(-1, (2, HEADS, dim)).unbind(1)
    rows = []
    for t in range(x.shape[0]):
        heads = []
        for head in range(HEADS):
            seen = range(max(0, t - WINDOW + 1), t + 1)
            q = direction(query[t, head]) * layer.scale[head].abs()
            scores = [q @ direction(key[s, head]) + layer.position_bias.weight[t - s, head] for s in seen]
            heads.append(torch.stack(scores).softmax(0) @ value[list(seen), head])
        if layer.context is not None:
            for head in range(HEADS):
                seen = range(t // WINDOW * WINDOW, t + 1)
                q = direction(own_query[t, head]) * layer.context.scale[head].abs()
                scores = [q @ direction(context_key[s, head]) for s in seen]
                heads.append(torch.stack(scores).softmax(0) @ context_value[list(seen), head])
        rows.append(torch.cat(heads))
    residual = residual + torch.stack(rows) @ layer.out_proj.weight.T
    hidden = (norm(residual, layer.mlp_norm.weight) @ layer.mlp_in.weight.T).clamp(min=0)
    return residual + hidden @ layer.mlp_out.weight.T


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, 3 * WINDOW + 2])
@torch.no_grad()
def test_features_are_those_of_the_equations(length: int) -> None:
    model = small().eval()
    x = torch.randn(2, length, WIDTH, dtype=torch.float64)
    rows = []
    for row in x:
        for layer in model.layers:
            row = layer_outputs(layer, row)
        rows.append(norm(row, model.norm_f.weight))
    torch.testing.assert_close(model(x).features, torch.stack(rows), rtol=1e-8, atol=1e-8)


def test_only_the_context_reaches_beyond_the_windows() -> None:
    for context_layers, reaches in (([], False), ([1], True)):
        torch.manual_seed(0)
        model = BlockStateTransformer(WIDTH, 2, HEADS, WINDOW, context_layers, d_state=4)
        x = torch.randn(1, 40, WIDTH, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(x).features[:, -1].pow(2).sum(), x)
        assert bool(gradient[:, 0].abs().max() > 0) == reaches
        assert gradient[:, -2 * WINDOW + 1].abs().max() > 0


def test_context_stands_at_three_quarters_of_the_depth() -> None:
    assert [layer.context is not None for layer in BlockStateTransformer(8, 4).layers] == [False, False, False, True]


def test_buckets_are_single_for_near_and_logarithmic_for_far_positions() -> None:
    distance = torch.tensor([-3, 0, 1, 15, 16, 20, 32, 64, 127, 128, 5000])
    expected = [0, 0, 1, 15, 16, 17, 21, 26, 31, 31, 31]
    assert relative_position_buckets(distance, 32, 128).tolist() == expected


def test_states_and_arguments_that_do_not_fit() -> None:
    other = BlockStateTransformer(WIDTH, 2, HEADS, WINDOW + 1, context_layers=[1], d_state=4)
    with pytest.raises(InputError, match="not one of this BlockStateTransformer of 2 layers of width 6"):
        small()(torch.zeros(2, 1, WIDTH, dtype=torch.float64), other.initial_state(2))
    for arguments, message in (
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 6, "num_heads": 4}, "num_heads must divide width, got 4 and 6"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"depth": 2, "context_layers": [2]}, r"context_layers must be from 0 to 1, got \[2\]"),
        ({"d_state": 3}, "d_state must be even"),
        ({"mlp_width": 0}, "mlp_width must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ):
        with pytest.raises(InputError, match=message):
            BlockStateTransformer(**arguments)

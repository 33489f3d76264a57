"""Block-State Transformer: its equations position by position in all forms, windows, positions' buckets."""

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import BlockStateTransformer
from mambarium.backbones.language.block_state_transformer.block_state_backbone import (
    LastStatesContext,
    SameWindowContext,
)
from mambarium.backbones.language.block_state_transformer.explicit_filters import ExplicitFilters
from mambarium.backbones.layers.diagonal_ssm import DiagonalSSM
from mambarium.backbones.layers.sequences import document_boundaries
from mambarium.backbones.layers.windows import relative_position_buckets
from mambarium.errors import InputError

pytestmark = pytest.mark.thorough

WIDTH, HEADS, WINDOW, STATES = 6, 2, 5, 3
DIM = WIDTH // HEADS


def small(context: str = "single_head", filters: str = "structured", filter_length: int = 8) -> BlockStateTransformer:
    torch.manual_seed(0)
    model = BlockStateTransformer(
        WIDTH, 2, HEADS, WINDOW, [1], context, filters, STATES, 4, filter_length, mlp_width=7
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def direction(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


def filter_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Every filter's outputs (length, width, filters), by the recurrence or by the sum of the convolution."""
    if isinstance(model, DiagonalSSM):
        log_A_bar, B_bar, C = model.discretized()
        C, D = C.view(WIDTH, -1, 2), model.D.view(WIDTH, -1)
        state, out = torch.zeros_like(B_bar), []
        for u in x:
            state = log_A_bar.exp() * state + B_bar * u[:, None]
            out.append(2 * (C * state[:, None]).sum(-1).real + D * u[:, None])
        return torch.stack(out)
    kernel = model.kernel()
    out = []
    for t in range(x.shape[0]):
        past = range(max(0, t - model.filter_length + 1), t + 1)
        out.append(sum(kernel[..., t - s] * x[s, :, None] for s in past) + model.D * x[t, :, None])
    return torch.stack(out)


def context_states(context: nn.Module, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Keys and values (states, heads, dim) of what position t sees."""
    y = filter_outputs(context.filters.model, x)
    begin = t // WINDOW * WINDOW
    if isinstance(context, LastStatesContext):
        states = (context.initial if t < WINDOW else y[begin - 1].T) + context.names
        return (states @ context.key_value.weight.T).unflatten(-1, (2, HEADS, DIM)).unbind(1)
    assert isinstance(context, SameWindowContext)
    y = y[begin : t + 1]
    if y.shape[-1] == 1:
        return (y[..., 0] @ context.key_value.weight.T).unflatten(-1, (2, HEADS, DIM)).unbind(1)
    heads = [y[..., head] @ context.key_value.weight[head].flatten(1) for head in range(HEADS)]
    return torch.stack(heads, dim=1).unflatten(-1, (2, DIM)).unbind(2)


def layer_outputs(layer: nn.Module, residual: Tensor) -> Tensor:
    """One sequence (length, width), one position and one head after the other."""
    x = norm(residual, layer.norm.weight)
    query, key, value = (x @ layer.qkv.weight.T).unflatten(-1, (3, HEADS, DIM)).unbind(1)
    rows = []
    for t in range(x.shape[0]):
        heads = []
        for head in range(HEADS):
            seen = range(max(0, t - WINDOW + 1), t + 1)
            q = direction(query[t, head]) * layer.scale[head].abs()
            scores = [q @ direction(key[s, head]) + layer.position_bias.weight[t - s, head] for s in seen]
            heads.append(torch.stack(scores).softmax(0) @ value[list(seen), head])
        if layer.context is not None:
            own_query = (x[t] @ layer.context.query.weight.T).unflatten(-1, (HEADS, DIM))
            context_key, context_value = context_states(layer.context, x, t)
            for head in range(HEADS):
                q = direction(own_query[head]) * layer.context.scale[head].abs()
                scores = torch.stack([q @ direction(state) for state in context_key[:, head]])
                heads.append(scores.softmax(0) @ context_value[:, head])
        rows.append(torch.cat(heads))
    residual = residual + torch.stack(rows) @ layer.out_proj.weight.T
    hidden = (norm(residual, layer.mlp_norm.weight) @ layer.mlp_in.weight.T).clamp(min=0)
    return residual + hidden @ layer.mlp_out.weight.T


@pytest.mark.parametrize("length", [1, WINDOW, 3 * WINDOW + 2])
@pytest.mark.parametrize("filters", ["structured", "unstructured"])
@pytest.mark.parametrize("context", ["single_head", "multi_head", "multi_filter"])
@torch.no_grad()
def test_features_are_those_of_the_equations(context: str, filters: str, length: int) -> None:
    model = small(context, filters)
    x = torch.randn(2, length, WIDTH, dtype=torch.float64)
    rows = []
    for row in x:
        for layer in model.layers:
            row = layer_outputs(layer, row)
        rows.append(norm(row, model.norm_f.weight))
    torch.testing.assert_close(model(x).features, torch.stack(rows), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("filter_length", [1, 2, 70, 200])
@pytest.mark.parametrize("num_filters", [None, 2])
def test_explicit_filters_in_blocks_documents_and_chunks(filter_length: int, num_filters: int | None) -> None:
    torch.manual_seed(0)
    model = ExplicitFilters(WIDTH, filter_length, num_filters).double()
    ids = torch.tensor([[0] * 140, [3] * 5 + [1] * 64 + [0] * 1 + [7] * 70])
    u = torch.randn(2, 140, WIDTH, dtype=torch.float64)
    starts = torch.tensor([[0] * 140, [0] * 5 + [5] * 64 + [69] + [70] * 70])
    offset = torch.arange(140) - starts
    pieces = ((0, slice(0, 140)), (1, slice(0, 5)), (1, slice(5, 69)), (1, slice(69, 70)), (1, slice(70, 140)))
    expected = torch.zeros(2, 140, WIDTH, num_filters or 1, dtype=torch.float64)
    for row, piece in pieces:
        expected[row, piece] = filter_outputs(model, u[row, piece])
    for cuts in ([140], [3, 62, 75], [139, 1]):
        state = model.initial_state(2, u.device, u.dtype)
        previous, begin, found, last = None, 0, [], []
        for length in cuts:
            part = slice(begin, begin + length)
            boundaries = document_boundaries(ids[:, part], previous)
            at_end, _ = model.at_positions(u[:, part], torch.full((2, 1), length - 1), offset[:, part], state)
            y, state = model(u[:, part], offset[:, part], state, boundaries)
            found.append(y)
            last.append((y[:, -1:] - at_end).abs().max())
            previous, begin = ids[:, begin + length - 1], begin + length
        assert max(last) < 1e-12
        torch.testing.assert_close(torch.cat(found, 1), expected if num_filters else expected[..., 0])


def test_only_the_context_reaches_beyond_the_windows() -> None:
    forms = [
        ([], "single_head", "structured", False),
        ([1], "single_head", "structured", True),
        ([1], "multi_filter", "structured", True),
        ([1], "multi_head", "unstructured", True),
    ]
    for context_layers, context, filters, reaches in forms:
        torch.manual_seed(0)
        model = BlockStateTransformer(WIDTH, 2, HEADS, WINDOW, context_layers, context, filters, d_state=4)
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
        ({"context": "many"}, "context must be one of single_head, multi_head, multi_filter, got 'many'"),
        ({"filters": "s4"}, "filters must be one of structured, unstructured, got 's4'"),
        ({"num_states": 0}, "num_states must be at least 1, got 0"),
        ({"filters": "unstructured", "filter_length": 0}, "filter_length must be at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            BlockStateTransformer(**arguments)

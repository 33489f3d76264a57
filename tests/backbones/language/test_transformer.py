"""Transformer++ against its equations, and its key/value cache."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mambarium.backbones import State, Transformer
from mambarium.backbones.language.transformer.transformer_backbone import rotary_factors, rotate
from mambarium.errors import InputError

WIDTH, LENGTH = 12, 9


def small(**arguments: int) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(**{"width": WIDTH, "depth": 2, "num_heads": 3, "num_key_value_heads": 1, **arguments}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def inputs() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def turn(x: Tensor, position: int) -> Tensor:
    """A head's vector as complex numbers, each multiplied by its own exp(i angle)."""
    half = x.shape[-1] // 2
    rates = torch.tensor([10000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * position * rates)
    return torch.cat([turned.real, turned.imag], dim=-1)


def attention(x: Tensor, weights: dict[str, Tensor], heads: int, shared: int) -> Tensor:
    dim = x.shape[-1] // heads
    mixed = (x @ weights["attention.qkv.weight"].T).unflatten(-1, (heads + 2 * shared, dim))
    out = torch.zeros_like(x).unflatten(-1, (heads, dim))
    for t in range(x.shape[1]):
        for head in range(heads):
            group = head // (heads // shared)
            query = turn(mixed[:, t, head], t)
            scores = [(query * turn(mixed[:, s, heads + group], s)).sum(-1) / math.sqrt(dim) for s in range(t + 1)]
            shares = torch.stack(scores, dim=-1).softmax(-1)
            for s in range(t + 1):
                out[:, t, head] += shares[:, s, None] * mixed[:, s, heads + shared + group]
    return out.flatten(-2) @ weights["attention.out_proj.weight"].T


@torch.no_grad()
def test_features_are_those_of_the_equations() -> None:
    model = small(num_heads=2, num_key_value_heads=1, depth=2)
    residual = inputs().double()
    for i in range(2):
        prefix = f"layers.{i}."
        weights = {k.removeprefix(prefix): v.double() for k, v in model.state_dict().items() if k.startswith(prefix)}
        residual = residual + attention(norm(residual, weights["attention_norm.weight"]), weights, 2, 1)
        gate, up = (norm(residual, weights["mlp_norm.weight"]) @ weights["mlp.gate_up.weight"].T).chunk(2, dim=-1)
        residual = residual + (gate / (1 + torch.exp(-gate)) * up) @ weights["mlp.down.weight"].T
    expected = norm(residual, model.norm_f.weight.double())
    torch.testing.assert_close(model(inputs()).features.double(), expected, rtol=0, atol=1e-5)


def test_rotary_positions_stay_exact_far_into_a_text() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(start: int) -> float:
        turned = [rotate(x, rotary_factors(p, 1, 8, 1e4, x)) for x, p in ((query, start + 7), (key, start))]
        return (turned[0] * turned[1]).sum().item()

    assert score(0) == pytest.approx(score(1_000_003), abs=1e-5)


def tables(state: State) -> list[Tensor]:
    return [layer[name] for layer in state["layers"] for name in ("key", "value")]


@torch.no_grad()
def test_with_a_stated_length_tokens_are_written_in_place() -> None:
    model, x = small(), inputs()
    state = model.initial_state(2, max_length=LENGTH)
    addresses = [table.data_ptr() for table in tables(state)]
    assert [table.shape for table in tables(state)] == [(2, 1, LENGTH, 4)] * 4
    for t in range(LENGTH):
        state = model(x[:, t : t + 1], state).state
        assert [table.data_ptr() for table in tables(state)] == addresses


@torch.no_grad()
def test_beyond_the_stated_length_is_refused() -> None:
    model, x = small(), inputs()
    state = model(x[:, :6], model.initial_state(2, max_length=8)).state
    with pytest.raises(InputError, match="at most 8 positions and this call brings them to 9"):
        model(x[:, 6:], state)
    model(x[:, 6:8], state)
    with pytest.raises(InputError, match="max_length must be at least 1, got 0"):
        model.initial_state(2, max_length=0)


@torch.no_grad()
def test_without_a_stated_length_the_cache_grows() -> None:
    model, x = small(), inputs()
    state = model.initial_state(2)
    features = []
    for t in range(LENGTH):
        output = model(x[:, t : t + 1], state)
        features.append(output.features)
        state = output.state
    torch.testing.assert_close(torch.cat(features, dim=1), model(x).features, rtol=1e-4, atol=1e-5)
    assert tables(state)[0].shape[2] == 16


@pytest.mark.parametrize("max_length", [LENGTH, None])
@torch.no_grad()
def test_one_state_can_be_continued_in_several_ways_in_turns(max_length: int | None) -> None:
    model, x = small(), inputs()
    other = x.flip(0)
    prompt = model(x[:, :4], model.initial_state(2, max_length=max_length)).state
    states, features = [prompt, prompt], [[], []]
    for t in range(4, LENGTH):
        for i, source in enumerate((x, other)):
            output = model(source[:, t : t + 1], states[i])
            features[i].append(output.features)
            states[i] = output.state
    for i, source in enumerate((x, other)):
        expected = model(torch.cat([x[:, :4], source[:, 4:]], dim=1)).features[:, 4:]
        torch.testing.assert_close(torch.cat(features[i], dim=1), expected, rtol=1e-4, atol=1e-5)


def test_a_state_passes_between_modes_of_gradients() -> None:
    model, x = small(), inputs()
    expected = model(x).features
    with torch.inference_mode():
        state = model(x[:, :2], model.initial_state(2, max_length=LENGTH)).state
    with torch.no_grad():
        state = model(x[:, 2:4].clone(), state).state
    output = model(x[:, 4:6], state)
    with torch.no_grad():
        last = model(x[:, 6:], output.state).features
    output.features.sum().backward()
    torch.testing.assert_close(output.features, expected[:, 4:6], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, expected[:, 6:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        lambda: small(depth=1),
        lambda: small(num_key_value_heads=3),
        lambda: small(width=24),
    ],
)
def test_the_state_of_another_transformer_is_refused(other: Callable[[], Transformer]) -> None:
    with pytest.raises(InputError, match="not one of this Transformer of 2 layers of width 12"):
        small()(inputs(), other().initial_state(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"num_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads must divide num_heads, got 3 and 4"),
        ({"width": 12, "num_heads": 4}, "width must be a multiple of twice num_heads, got 12 and 4"),
        ({"mlp_width": 0}, "mlp_width must be at least 1, got 0"),
        ({"rope_base": 1.0}, "rope_base must be above 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Transformer(**arguments)

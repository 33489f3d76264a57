"""Mamba's features against the paper's equations, written out plainly in float64."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones import Mamba

pytestmark = pytest.mark.thorough

NORM_EPS = 1e-5


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + NORM_EPS).sqrt() * weight


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel's weighted sum of its last inputs, (batch, length, d_inner)."""
    taps = weight.shape[-1]
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        out[:, t] = bias
        for back in range(min(taps, t + 1)):
            out[:, t] += weight[:, 0, taps - 1 - back] * x[:, t - back]
    return out


def scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """x, delta (batch, length, d_inner), A (d_inner, d_state), B, C (batch, length, d_state)."""
    h = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype)
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        h = decay * h + (delta[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]
        out[:, t] = (h * C[:, t, None, :]).sum(-1)
    return out


def block(x: Tensor, weights: dict[str, Tensor], dt_rank: int, d_state: int) -> Tensor:
    x, z = (norm(x, weights["norm.weight"]) @ weights["mixer.in_proj.weight"].T).chunk(2, dim=-1)
    x = silu(convolve(x, weights["mixer.ssm.conv1d.weight"], weights["mixer.ssm.conv1d.bias"]))
    low, B, C = (x @ weights["mixer.ssm.x_proj.weight"].T).split([dt_rank, d_state, d_state], dim=-1)
    step = low @ weights["mixer.ssm.dt_proj.weight"].T + weights["mixer.ssm.dt_proj.bias"]
    y = scan(x, torch.log(1 + torch.exp(step)), -torch.exp(weights["mixer.ssm.A_log"]), B, C)
    return ((y + weights["mixer.ssm.D"] * x) * silu(z)) @ weights["mixer.out_proj.weight"].T


@pytest.mark.parametrize("d_conv", [2, 4])
@torch.no_grad()
def test_features_are_those_of_the_equations(d_conv: int) -> None:
    torch.manual_seed(0)
    model = Mamba(12, depth=3, d_state=5, d_conv=d_conv, dt_rank=2).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 41, 12)

    weights = {name: value.double() for name, value in model.state_dict().items()}
    residual = x.double()
    for i in range(3):
        prefix = f"layers.{i}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        residual = residual + block(residual, own, dt_rank=2, d_state=5)
    expected = norm(residual, weights["norm_f.weight"])

    torch.testing.assert_close(model(x).features.double(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_decoding_minds_the_backend_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    model = Mamba(12, depth=1).eval()
    x = torch.randn(1, 1, 12)
    state = model.initial_state(1)
    outputs = []
    for backend in ("", "cpu", "reference"):
        monkeypatch.setenv("MAMBARIUM_BACKEND", backend)
        outputs.append(model(x, state).features)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    for backend, message in (("triton", "expected tensors on cuda"), ("gpu", "MAMBARIUM_BACKEND: .*'gpu'")):
        monkeypatch.setenv("MAMBARIUM_BACKEND", backend)
        with pytest.raises(ValueError, match=message):
            model(x, state)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_mapped_over_inputs_and_serves_double_precision(dtype: torch.dtype) -> None:
    model = Mamba(width=16, depth=2, d_state=4).to(dtype).eval()
    state = model.initial_state(1)
    x = torch.randn(3, 1, 1, 16, dtype=dtype)
    one_by_one = torch.stack([model(element, state).features for element in x])
    torch.testing.assert_close(torch.vmap(lambda element: model(element, state).features)(x), one_by_one)

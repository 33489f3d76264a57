"""Residual LSTMs against their equations, and packed documents' gradients."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones import LSTM
from mambarium.errors import InputError


def small() -> LSTM:
    torch.manual_seed(0)
    return LSTM(6, depth=2, hidden_size=5)


def cell_by_cell(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    h = c = x.new_zeros(x.shape[0], 5)
    out = []
    for t in range(x.shape[1]):
        gates = x[:, t] @ weights["lstm.weight_ih_l0"].T + h @ weights["lstm.weight_hh_l0"].T
        i, f, g, o = (gates + weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out, dim=1) @ weights["out_proj.weight"].T


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


@torch.no_grad()
def test_features_are_those_of_the_equations() -> None:
    model = small()
    x = torch.randn(2, 9, 6)
    residual = x.double()
    for i in range(2):
        prefix = f"layers.{i}."
        weights = {k.removeprefix(prefix): v.double() for k, v in model.state_dict().items() if k.startswith(prefix)}
        residual = residual + cell_by_cell(norm(residual, weights["norm.weight"]), weights)
    expected = norm(residual, model.norm_f.weight.double())
    torch.testing.assert_close(model(x).features.double(), expected, rtol=0, atol=1e-5)


def test_forget_gates_start_open() -> None:
    lstm = small().layers[0].lstm
    assert ((lstm.bias_ih_l0 + lstm.bias_hh_l0)[5:10] == 1.0).all()


def test_packed_documents_have_the_gradients_of_separate_ones() -> None:
    model = small().double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    ids = torch.tensor([[1, 1, 1, 1, 2, 2, 5], [3, 4, 4, 4, 4, 4, 3]])
    parts = [(0, 0, 4), (0, 4, 6), (0, 6, 7), (1, 0, 1), (1, 1, 6), (1, 6, 7)]
    together = model(x, document_ids=ids).features.pow(2).sum()
    apart = sum(model(x[row : row + 1, start:end]).features.pow(2).sum() for row, start, end in parts)
    found = torch.autograd.grad(together, list(model.parameters()))
    for one, other in zip(found, torch.autograd.grad(apart, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other)


def test_states_and_arguments_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="not one of this LSTM of 2 layers of width 6"):
        small()(torch.zeros(2, 1, 6), LSTM(6, depth=2, hidden_size=4).initial_state(2))
    for arguments, message in (
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ):
        with pytest.raises(InputError, match=message):
            LSTM(**arguments)

"""Mamba with induction layers: the layer's equation position by position, and copying before anything is learned."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones import InductionMamba
from mambarium.backbones.language.induction_mamba import InductionLayer
from mambarium.errors import InputError

WIDTH, HEADS, WINDOW = 6, 2, 5
DIM = WIDTH // HEADS


def induction_layer(model: InductionMamba, block: int) -> InductionLayer:
    layer = model.layers[block].induction
    assert isinstance(layer, InductionLayer)
    return layer


def layer_outputs(layer: InductionLayer, residual: Tensor, document_ids: Tensor) -> Tensor:
    """One sequence (length, width), one position and one head after the other."""
    x = residual / (residual.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
    context, value = ((x @ linear.weight.T).unflatten(-1, (HEADS, DIM)) for linear in (layer.context, layer.value))
    context = context / context.pow(2).sum(-1, keepdim=True).sqrt()
    rows = []
    for t in range(x.shape[0]):
        heads = []
        for head in range(HEADS):
            seen = [s for s in range(max(0, t - WINDOW + 1), t + 1) if document_ids[s] == document_ids[t]]
            keys = [context[s - 1, head] if s > 0 and document_ids[s - 1] == document_ids[t] else None for s in seen]
            scores = [0.0 if key is None else layer.scale[head] * (context[t, head] @ key) for key in keys]
            weights = torch.as_tensor(scores, dtype=torch.float64).softmax(0)
            heads.append(sum(weight * value[s, head] for weight, s in zip(weights, seen, strict=True)))
        rows.append(layer.out_proj.weight @ torch.cat(heads))
    return residual + torch.stack(rows)


def test_the_layer_is_its_equation() -> None:
    torch.manual_seed(0)
    model = InductionMamba(WIDTH, depth=2, induction_layers=[1], num_heads=HEADS, window_size=WINDOW).double().eval()
    layer = induction_layer(model, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    residual = torch.randn(2, 14, WIDTH, dtype=torch.float64)
    document_ids = torch.tensor([[0] * 14, [3] * 4 + [1] * 2 + [3] * 8])
    with torch.no_grad():
        given = {"x": residual, "document_ids": document_ids}
        seen: list[tuple[Tensor, Tensor]] = []
        layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))
        model(**given)
        ((before, after),) = seen
        for b in range(2):
            segments = (document_ids[b].diff() != 0).cumsum(0)
            segments = torch.cat([torch.zeros(1, dtype=torch.int64), segments])
            torch.testing.assert_close(after[b], layer_outputs(layer, before[b], segments))


def test_a_new_layer_reads_what_came_after_the_same_context() -> None:
    torch.manual_seed(0)
    words = torch.randn(50, 96)
    text = torch.randperm(50).repeat(2)  # every word twice, at a distance of 50
    model = InductionMamba(width=96, depth=1, induction_layers=[0], window_size=100).eval()
    layer = induction_layer(model, 0)
    read: list[Tensor] = []
    layer.out_proj.register_forward_hook(lambda _, args, out: read.append(args[0][0]))
    values: list[Tensor] = []
    layer.value.register_forward_hook(lambda _, args, out: values.append(out[0]))
    with torch.no_grad():
        model(words[text].unsqueeze(0))
    # After a word's second time, what followed its first time is read.
    followers = values[0][1:50]
    error = (read[0][50:99] - followers).norm(dim=1) / followers.norm(dim=1)
    assert error.median() < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide width, got 5 and 128"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"induction_layers": [4]}, r"induction_layers must be from 0 to 3, got \[4\]"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InductionMamba(**arguments)

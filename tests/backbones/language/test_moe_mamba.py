"""Switch layers: routing, capacity and its overflow, balance loss, precision of the router."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones import MoEMamba
from mambarium.backbones.language.moe_mamba.switch import SwitchFeedForward
from mambarium.errors import InputError

pytestmark = pytest.mark.thorough

WIDTH, EXPERTS = 6, 4


def switch(capacity_factor: float | None = None, overflow: str = "position") -> SwitchFeedForward:
    torch.manual_seed(0)
    layer = SwitchFeedForward(WIDTH, 5, EXPERTS, capacity_factor, overflow)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


def inputs(batch_size: int = 3, length: int = 11) -> Tensor:
    return torch.randn(batch_size, length, WIDTH, generator=torch.Generator().manual_seed(2))


def expected(layer: SwitchFeedForward, x: Tensor, served: set[tuple[int, int]] | None = None) -> Tensor:
    """One token after the other; those not served get zeros."""
    out = torch.zeros_like(x)
    for row in range(x.shape[0]):
        for position in range(x.shape[1]):
            if served is not None and (row, position) not in served:
                continue
            token = x[row, position]
            probabilities = (layer.router.weight @ token).softmax(0)
            best = int(probabilities.argmax())
            hidden = (token @ layer.expert_in[best]).relu()
            out[row, position] = probabilities[best] * (hidden @ layer.expert_out[best])
    return out


def served_tokens(layer: SwitchFeedForward, x: Tensor, capacity: int) -> set[tuple[int, int]]:
    probabilities = (x @ layer.router.weight.T).softmax(-1)
    gate, expert = probabilities.max(-1)
    tokens = [(row, position) for row in range(x.shape[0]) for position in range(x.shape[1])]
    if layer.overflow == "position":
        tokens.sort(key=lambda token: (token[1], token[0]))
    else:
        tokens.sort(key=lambda token: -float(gate[token]))
    served, taken = set(), [0] * EXPERTS
    for token in tokens:
        chosen = int(expert[token])
        if taken[chosen] < capacity:
            taken[chosen] += 1
            served.add(token)
    return served


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_every_token_goes_through_its_likeliest_expert(training: bool) -> None:
    layer = switch(capacity_factor=None if training else 0.3).train(training)
    torch.testing.assert_close(layer(inputs())[0], expected(layer, inputs()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("overflow", ["position", "probability"])
@pytest.mark.parametrize(("capacity_factor", "capacity"), [(0.01, 1), (0.5, 4), (1.0, 8), (1.3, 10), (9.0, 33)])
@torch.no_grad()
def test_training_serves_up_to_the_capacity_by_the_stated_rule(
    overflow: str, capacity_factor: float, capacity: int
) -> None:
    layer, x = switch(capacity_factor, overflow).train(), inputs()
    served = served_tokens(layer, x, capacity)
    assert len(served) < 33 or capacity >= 10
    torch.testing.assert_close(layer(x)[0], expected(layer, x, served), rtol=1e-5, atol=1e-5)


def test_gradients_with_and_without_capacity_are_those_of_the_plain_sum() -> None:
    x = inputs()
    for capacity_factor, capacity in ((None, 33), (4.0, 33), (0.6, 4)):
        layer = switch(capacity_factor).train()
        leaves = [x.clone().requires_grad_(), *layer.parameters()]
        served = served_tokens(layer, x, capacity)
        wanted = torch.autograd.grad(expected(layer, leaves[0], served).pow(2).sum(), leaves)
        found = torch.autograd.grad(layer(leaves[0])[0].pow(2).sum(), leaves)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_in_training_no_token_displaces_an_earlier_one() -> None:
    layer, x = switch(0.5).train(), inputs()
    changed = x.clone()
    changed[:, 6:] = torch.randn(3, 5, WIDTH)
    assert torch.equal(layer(x)[0][:, :6], layer(changed)[0][:, :6])


@torch.no_grad()
def test_in_evaluation_no_token_depends_on_another() -> None:
    layer, x = switch(0.1).eval(), inputs()
    together = layer(x)[0]
    for row in range(3):
        torch.testing.assert_close(layer(x[row : row + 1, 4:7])[0], together[row : row + 1, 4:7])


@torch.no_grad()
def test_balance_loss_is_one_for_an_even_spread_and_the_number_of_experts_for_the_opposite() -> None:
    layer = SwitchFeedForward(EXPERTS, 5, EXPERTS).train()
    even = torch.eye(EXPERTS).repeat(1, 3, 1)
    layer.router.weight.copy_(2.0 * torch.eye(EXPERTS))
    assert layer(even)[1].item() == pytest.approx(1.0)
    layer.router.weight.copy_(100.0 * torch.eye(EXPERTS))
    one = torch.eye(EXPERTS)[:1].repeat(2, 7, 1)
    assert layer(one)[1].item() == pytest.approx(EXPERTS)

    layer, x = switch(0.5), inputs()
    probabilities = (x @ layer.router.weight.T).softmax(-1).flatten(0, 1)
    share = torch.bincount(probabilities.argmax(-1), minlength=EXPERTS) / 33
    assert layer(x)[1].item() == pytest.approx(EXPERTS * (share * probabilities.mean(0)).sum().item(), rel=1e-5)


def test_the_model_returns_the_weighted_sum_of_its_layers_balance_losses() -> None:
    torch.manual_seed(0)
    model = MoEMamba(WIDTH, depth=3, num_experts=2, balance_weight=0.25)
    losses = model(inputs()).auxiliary_losses
    assert list(losses) == ["balance"]
    assert 0.25 * 3 * 0.9 < losses["balance"].item() < 0.25 * 3 * 2
    losses["balance"].backward()
    assert all(layer.switch.router.weight.grad.abs().max() > 0 for layer in model.layers)


@pytest.mark.parametrize("parallel", [True, False])
@torch.no_grad()
def test_both_layers_read_the_same_in_parallel_and_one_after_the_other_otherwise(parallel: bool) -> None:
    torch.manual_seed(0)
    model = MoEMamba(WIDTH, depth=2, num_experts=3, parallel=parallel).eval()
    x = inputs()
    residual = x
    for layer in model.layers:
        after_mixer = residual + layer.mixer(layer.mixer_norm(residual))[0]
        residual = after_mixer + layer.switch(layer.switch_norm(residual if parallel else after_mixer))[0]
    torch.testing.assert_close(model(x).features, model.norm_f(residual))


@pytest.mark.parametrize("whole_layer", [True, False])
@torch.no_grad()
def test_the_router_computes_in_float32(whole_layer: bool) -> None:
    layer = SwitchFeedForward(2, 3, 2, None)
    # In bfloat16 both experts' logits would round to 257 + 1 = 256, and the first would win the tie.
    layer.router.weight.copy_(torch.tensor([[256.0, 1.0], [256.0, 1.5]]))
    layer.expert_in.fill_(1.0)
    layer.expert_out.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 3, 2))
    x = torch.ones(1, 1, 2)
    if whole_layer:
        out = layer.bfloat16()(x.bfloat16())[0]
    else:
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)[0]
    assert out.min() > 0


def test_decay_falls_on_experts_and_routers() -> None:
    from mambarium.tasks import LanguageModeling
    from mambarium.tasks.optimization import parameter_groups

    model = LanguageModeling(MoEMamba(WIDTH, depth=1), vocab_size=5)
    decayed = {id(parameter) for parameter in parameter_groups(model)[0]["params"]}
    names = {name.split("layers.0.")[1] for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert {"switch.router.weight", "switch.expert_in", "switch.expert_out"} <= names
    assert not any("norm" in name or "A_log" in name for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"expert_width": 0}, "expert_width must be at least 1, got 0"),
        ({"capacity_factor": 0.0}, "capacity_factor must be above 0"),
        ({"capacity_factor": float("nan")}, "capacity_factor must be above 0"),
        ({"overflow": "chance"}, "overflow must be one of position, probability, got 'chance'"),
        ({"balance_weight": -1.0}, "balance_weight must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MoEMamba(**arguments)

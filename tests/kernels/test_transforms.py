"""The operations under torch.func's transforms and in forward mode, against the references in float64."""

import warnings

import pytest
import torch
from torch.autograd import forward_ad

from mambarium.kernels import BIDIRECTIONAL, CROSS, causal_conv1d, grid_scan, selective_scan, selective_state_update

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.usefixtures("device"),
    # torch.func.jvp loads what torch itself calls deprecated.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]

BATCH, DIM, LENGTH, D_STATE, ELEMENTS = 2, 6, 5, 3, 3


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def scan_case(optional):
    """The differentiable arguments, and a function of them and the backend."""
    leaves = {
        "u": normal(BATCH, DIM, LENGTH),
        "delta": normal(BATCH, DIM, LENGTH),
        "A": -normal(DIM, D_STATE).abs(),
        "B": normal(BATCH, 2, D_STATE, LENGTH),
        "C": normal(BATCH, D_STATE, LENGTH),
    }
    rest = {"delta_softplus": True}
    if optional:
        leaves |= {"D": normal(DIM), "z": normal(BATCH, DIM, LENGTH), "delta_bias": normal(DIM)}
        leaves |= {"initial_state": normal(BATCH, DIM, D_STATE)}
        rest |= {"reset": torch.rand(BATCH, LENGTH) < 0.2, "reverse": True}

    def function(backend, **inputs):
        out, state = selective_scan(**inputs, **rest, return_last_state=True, backend=backend)
        return torch.cat([out.flatten(), state.flatten()])

    return leaves, function


def conv_case(optional):
    leaves = {"x": normal(BATCH, DIM, LENGTH), "weight": normal(DIM, 4)}
    rest = {}
    if optional:
        leaves |= {"bias": normal(DIM), "initial_states": normal(BATCH, DIM, 3)}
        documents = (torch.rand(BATCH, LENGTH) < 0.3).cumsum(1).int()
        rest = {"activation": "silu", "seq_idx": documents, "return_final_states": True}

    def function(backend, **inputs):
        found = causal_conv1d(**inputs, **rest, backend=backend)
        return torch.cat([x.flatten() for x in found]) if optional else found.flatten()

    return leaves, function


def grid_case(optional):
    height, width, routes = 2, 3, len(CROSS)
    leaves = {
        "u": normal(BATCH, DIM, height, width) if optional else normal(BATCH, routes, DIM, height, width),
        "delta": normal(BATCH, routes, DIM, height, width),
        "A": -normal(routes, DIM, D_STATE).abs(),
        "B": normal(BATCH, routes, D_STATE, height, width),
        "C": normal(BATCH, routes, D_STATE, height, width),
    }
    if optional:
        leaves |= {"D": normal(routes, DIM), "delta_bias": normal(routes, DIM)}

    def function(backend, **inputs):
        return grid_scan(**inputs, delta_softplus=True, routes=CROSS, backend=backend).flatten()

    return leaves, function


def step_case(optional):
    """The step changes a copy of the state: what is differentiated can't be changed in place."""
    rows, matrices = ((4, DIM), (2, D_STATE)) if optional else ((DIM,), (D_STATE,))
    leaves = {
        "state": normal(BATCH, *rows, D_STATE),
        "x": normal(BATCH, *rows),
        "dt": normal(BATCH, *rows),
        "A": -normal(*rows, D_STATE).abs(),
        "B": normal(BATCH, *matrices),
        "C": normal(BATCH, *matrices),
    }
    rest = {}
    if optional:
        leaves |= {"D": normal(*rows), "z": normal(BATCH, *rows), "dt_bias": normal(*rows)}
        rest = {"state_batch_indices": torch.tensor([1, -1], dtype=torch.int32)}

    def function(backend, state, **inputs):
        state = state.clone()
        out = selective_state_update(state, **inputs, **rest, dt_softplus=True, backend=backend)
        return torch.cat([out.flatten(), state.flatten()])

    return leaves, function


CASES = {"scan": scan_case, "conv": conv_case, "grid": grid_case, "step": step_case}


def jvp(function, inputs, tangents):
    return torch.func.jvp(lambda inputs: function(**inputs), (inputs,), (tangents,))[1]


def dual_level(function, inputs, tangents):
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(x, tangents[name]) for name, x in inputs.items()}
        return forward_ad.unpack_dual(function(**duals)).tangent


def grad(function, inputs, tangents):
    return torch.func.grad(lambda inputs: function(**inputs).square().sum())(inputs)


def vjp(function, inputs, tangents):
    out, backward = torch.func.vjp(lambda inputs: function(**inputs), inputs)
    return backward(out)[0]


def jacrev(function, inputs, tangents):
    return torch.func.jacrev(lambda inputs: function(**inputs))(inputs)


def jacfwd(function, inputs, tangents):
    return torch.func.jacfwd(lambda inputs: function(**inputs))(inputs)


def hessian_product(function, inputs, tangents):
    return torch.func.jvp(lambda inputs: grad(function, inputs, None), (inputs,), (tangents,))[1]


def stacked(inputs):
    """Several elements of each input, side by side at the last place, and of every third input only one."""
    several = {name: index % 3 != 2 for index, name in enumerate(inputs)}
    elements = torch.arange(ELEMENTS, dtype=torch.float64) / 4 + 1
    found = {name: x[..., None] * elements.to(x.dtype) if several[name] else x for name, x in inputs.items()}
    return found, {name: -1 if chosen else None for name, chosen in several.items()}


def vmap(function, inputs, tangents):
    inputs, in_dims = stacked(inputs)
    return torch.vmap(lambda inputs: function(**inputs), (in_dims,))(inputs)


def gradients_of_each_element(function, inputs, tangents):
    inputs, in_dims = stacked(inputs)
    return torch.vmap(lambda inputs: grad(function, inputs, None), (in_dims,))(inputs)


def gradient_of_all_elements(function, inputs, tangents):
    inputs, in_dims = stacked(inputs)
    return torch.func.grad(
        lambda inputs: torch.vmap(lambda inputs: function(**inputs), (in_dims,))(inputs).square().sum()
    )(inputs)


def tangents_of_each_element(function, inputs, tangents):
    inputs, in_dims = stacked(inputs)
    return torch.vmap(lambda inputs: jvp(function, inputs, tangents), (in_dims,))(inputs)


REVERSE = [grad, vjp, jacrev, vmap, gradients_of_each_element, gradient_of_all_elements]
FORWARD = [jvp, dual_level, jacfwd, hessian_product, tangents_of_each_element]


def assert_close(found, expected):
    found, expected = (list(x.values()) if isinstance(x, dict) else [x] for x in (found, expected))
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        assert y.norm() > 0
        assert (x.double() - y).norm() <= 1e-5 * y.norm()


def floats(inputs):
    return {name: x.float() for name, x in inputs.items()}


@pytest.mark.parametrize("transform", REVERSE + FORWARD, ids=lambda transform: transform.__name__)
@pytest.mark.parametrize("optional", [True, False], ids=["all", "required"])
@pytest.mark.parametrize("operation", CASES)
def test_transforms_agree_with_the_float64_reference(operation, optional, transform):
    torch.manual_seed(0)
    inputs, function = CASES[operation](optional)
    tangents = {name: normal(*x.shape) for name, x in inputs.items()}
    expected = transform(lambda **inputs: function("reference", **inputs), inputs, tangents)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*")  # torch's own loop over the elements
        found = transform(lambda **inputs: function(None, **inputs), floats(inputs), floats(tangents))
    assert_close(found, expected)


@pytest.mark.parametrize("operation", ["scan", "conv", "grid"])
@pytest.mark.parametrize("transform", REVERSE, ids=lambda transform: transform.__name__)
def test_reverse_mode_runs_on_the_kernels(operation, transform):
    inputs, function = CASES[operation](True)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        transform(lambda **inputs: function(None, **inputs), floats(inputs), None)
    counted = {str(name) for name in counter.get_flop_counts()["Global"]}
    assert any("forward" in name for name in counted)
    assert transform is vmap or any("backward" in name for name in counted)


@pytest.mark.parametrize("operation", ["scan", "conv", "grid"])
def test_what_the_kernels_cannot_differentiate_is_refused(operation):
    inputs, function = CASES[operation](True)
    inputs = floats(inputs)
    kernels = "cpu" if torch.get_default_device().type == "cpu" else "triton"
    for transform in FORWARD:
        with pytest.raises(ValueError, match=f"'{kernels}' serves no forward-mode .* backend='reference'"):
            transform(lambda **inputs: function(kernels, **inputs), inputs, inputs)

    def gradients(inputs):
        return sum(x.sum() for x in grad(lambda **inputs: function(None, **inputs), inputs, None).values())

    with pytest.raises(RuntimeError, match="second derivatives are served by backend='reference' only"):
        torch.func.grad(gradients)(inputs)
    out, backward = torch.func.vjp(lambda inputs: function(None, **inputs), inputs)
    with pytest.raises(RuntimeError, match="forward-mode derivatives are served by backend='reference' only"):
        torch.func.jvp(backward, (out,), (out,))


@pytest.mark.parametrize(
    ("operation", "transform"), [("scan", grad), ("conv", grad), ("grid", grad), ("conv", jvp), ("step", jvp)]
)
def test_transforms_compile_without_graph_breaks(operation, transform):
    torch.manual_seed(0)
    inputs, function = CASES[operation](False)
    inputs = floats(inputs)

    def transformed(inputs):
        return transform(lambda **inputs: function(None, **inputs), inputs, inputs)

    found = torch.compile(transformed, fullgraph=True, backend="aot_eager")(inputs)
    torch.testing.assert_close(found, transformed(inputs), rtol=1e-5, atol=1e-5)


def test_a_step_of_captured_states_is_refused():
    inputs, _ = step_case(False)
    state, rest = inputs.pop("state"), inputs
    with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
        torch.func.grad(lambda rest: selective_state_update(state, **rest).sum())(rest)


def test_a_step_outside_transforms_records_nothing():
    inputs, function = step_case(False)
    leaves = {name: x.requires_grad_(name != "state") for name, x in inputs.items()}
    assert not function(None, **floats(leaves)).requires_grad


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 1, 3), (2, 16, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_outputs_can_be_changed_in_place(shape, channel_last, backend):
    batch, dim, length = shape
    x = torch.randn(batch, length, dim).transpose(1, 2) if channel_last else torch.randn(shape)
    x.requires_grad_()
    A, B = -torch.rand(2, dim, 3), torch.randn(batch, 2, 3, length)
    grids = [values[..., None] for values in (x[:, None].expand(-1, 2, -1, -1), B, B)]

    def outputs():
        yield causal_conv1d(x, A[0, :, :2], activation="silu", backend=backend)
        yield from selective_scan(x, x, A[0], B[:, 0], B[:, 1], return_last_state=True, backend=backend)
        yield grid_scan(x[..., None], grids[0], A, *grids[1:], routes=BIDIRECTIONAL, backend=backend)

    for changed, out in zip(outputs(), outputs(), strict=True):
        found = torch.autograd.grad((changed.mul_(3) ** 2).sum(), x, retain_graph=True)
        expected = torch.autograd.grad(((3 * out) ** 2).sum(), x, retain_graph=True)
        torch.testing.assert_close(found, expected)

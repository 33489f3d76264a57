import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mambarium.backbones.layers.selective_ssm import SelectiveSSM
from mambarium.kernels import causal_conv1d, selective_scan

DIM, D_STATE, RANK, LENGTH = 6, 3, 2, 11


@pytest.fixture(scope="module")
def compat():
    """The functions under their own names, without leaving other packages' names in this process."""
    from mambarium.compat import causal_conv, layer_norm, selective_scan_interface, vmamba_oflex

    yield {**vars(selective_scan_interface), **vars(causal_conv), **vars(layer_norm), "oflex": vmamba_oflex}
    for name, module in list(sys.modules.items()):
        if getattr(getattr(module, "__spec__", None), "origin", None) == "mambarium.compat":
            del sys.modules[name]


def block(wtype=torch.float32, variable=(True, True)):
    """Arguments of mamba_inner_fn."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    width = D_STATE * (2 if wtype.is_complex else 1)
    return {
        "xz": normal(2, 2 * DIM, LENGTH),
        "conv1d_weight": normal(DIM, 1, 4),
        "conv1d_bias": normal(DIM),
        "x_proj_weight": normal(RANK + sum(variable) * width, DIM),
        "delta_proj_weight": normal(DIM, RANK),
        "out_proj_weight": normal(5, DIM),
        "out_proj_bias": normal(5),
        "A": -torch.rand(DIM, D_STATE, generator=generator, dtype=wtype),
        "B": None if variable[0] else normal(DIM, D_STATE, dtype=wtype),
        "C": None if variable[1] else normal(DIM, D_STATE, dtype=wtype),
        "D": normal(DIM),
        "delta_bias": normal(DIM),
    }


@pytest.mark.parametrize("wtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("variable", [(True, True), (False, True), (True, False), (False, False)])
def test_the_inner_function_agrees_with_the_reference_backend(compat, wtype, variable, monkeypatch):
    case = block(wtype, variable)
    leaves = {name: x.requires_grad_() for name, x in case.items() if x is not None}
    biases = {"B_proj_bias": torch.ones(1), "C_proj_bias": 2 * torch.ones(1)}
    found = compat["mamba_inner_fn"](**case, **biases)
    monkeypatch.setenv("MAMBARIUM_BACKEND", "reference")
    expected = compat["mamba_inner_ref"](**case, **biases)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(out.square().sum(), list(leaves.values())) for out in (found, expected)]
    for name, grad, other in zip(leaves, *grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()), msg=name)


def test_the_inner_function_is_the_block_of_our_models(compat):
    case = block()
    ssm = SelectiveSSM(DIM, D_STATE, 4, RANK)
    with torch.no_grad():
        ssm.conv1d.weight.copy_(case["conv1d_weight"])
        ssm.conv1d.bias.copy_(case["conv1d_bias"])
        ssm.x_proj.weight.copy_(case["x_proj_weight"])
        ssm.dt_proj.weight.copy_(case["delta_proj_weight"])
        ssm.dt_proj.bias.copy_(case["delta_bias"])
        ssm.A_log.copy_((-case["A"]).log())
        ssm.D.copy_(case["D"])
    x, z = case["xz"].transpose(1, 2).chunk(2, dim=-1)
    expected = F.linear(ssm(x, z)[0], case["out_proj_weight"], case["out_proj_bias"])
    torch.testing.assert_close(compat["mamba_inner_fn"](**case), expected, rtol=1e-5, atol=1e-5)
    del case["out_proj_weight"], case["out_proj_bias"]
    torch.testing.assert_close(compat["mamba_inner_fn_no_out_proj"](**case), ssm(x, z)[0].transpose(1, 2))


def test_the_norms_of_the_inner_function(compat):
    case = block()
    weights = {"b_rms_weight": (D_STATE,), "c_rms_weight": (D_STATE,), "dt_rms_weight": (DIM,)}
    weights = {name: torch.rand(shape) for name, shape in weights.items()}
    x, z = case["xz"].chunk(2, dim=1)
    x = causal_conv1d(x, case["conv1d_weight"][:, 0], case["conv1d_bias"], activation="silu")
    low, B, C = F.linear(x.mT, case["x_proj_weight"]).split([RANK, D_STATE, D_STATE], -1)
    selected = (B, C, low @ case["delta_proj_weight"].t())
    B, C, delta = (
        values * (values.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
        for values, weight in zip(selected, weights.values(), strict=True)
    )
    y = selective_scan(x, delta.mT, case["A"], B.mT, C.mT, case["D"], z, case["delta_bias"], True)
    expected = F.linear(y.mT, case["out_proj_weight"], case["out_proj_bias"])
    torch.testing.assert_close(compat["mamba_inner_fn"](**case, **weights), expected, rtol=1e-4, atol=1e-4)


def test_both_ways_are_two_scans_with_flips(compat):
    case = block()
    A_b = 2 * case["A"]
    x, z = case["xz"].chunk(2, dim=1)
    x = causal_conv1d(x, case["conv1d_weight"][:, 0], case["conv1d_bias"], activation="silu")
    low, B, C = F.linear(x.mT, case["x_proj_weight"]).split([RANK, D_STATE, D_STATE], -1)
    rows = [x, (low @ case["delta_proj_weight"].t()).mT, B.mT, C.mT, z]
    both = 0
    for A, flip in ((case["A"], False), (A_b, True)):
        u, delta, B_, C_, gate = [row.flip(-1) if flip else row for row in rows]
        y = selective_scan(u, delta, A, B_, C_, case["D"], gate, case["delta_bias"], True)
        both = both + (y.flip(-1) if flip else y)
    expected = F.linear(both.mT, case["out_proj_weight"], case["out_proj_bias"])
    for name in ("bimamba_inner_fn", "bimamba_inner_ref"):
        torch.testing.assert_close(compat[name](**case, A_b=A_b), expected, rtol=1e-4, atol=1e-4)


def test_scan_and_convolution_have_the_arguments_of_theirs(compat):
    x = torch.randn(2, DIM, LENGTH)
    A, B = -torch.rand(DIM, D_STATE), torch.randn(2, D_STATE, LENGTH)
    arguments = (x, x, A, B, B, A[:, 0], x, A[:, 0], True, True)
    for found, expected in zip(compat["selective_scan_fn"](*arguments), selective_scan(*arguments), strict=True):
        assert torch.equal(found, expected)
    states = torch.empty(2, DIM, 3)
    out, final = compat["causal_conv1d_fn"](x, torch.ones(DIM, 4), None, None, None, True, states, "silu")
    assert final is states and torch.equal(states, x[..., -3:])
    reference, final = compat["causal_conv1d_ref"](x, torch.ones(DIM, 4), None, None, True, None, "silu")
    torch.testing.assert_close(out, reference)
    assert torch.equal(final, states)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("state_length", [3, 5])
def test_steps_of_the_convolution(compat, ring, state_length):
    x, weight, bias = torch.randn(2, DIM, LENGTH), torch.randn(DIM, 4), torch.randn(DIM)
    whole = causal_conv1d(x, weight, bias, activation="silu")
    states, places = torch.zeros(4, DIM, state_length), torch.tensor([3, 1])
    seen, outputs = 0, []
    for size in (1, 2, 1, 1, 3, 3):
        new = x[..., seen] if size == 1 else x[..., seen : seen + size]
        counts = torch.full((2,), seen, dtype=torch.int32) if ring else None
        out = compat["causal_conv1d_update"](new, states, weight, bias, "silu", counts, places)
        assert out.shape == new.shape
        outputs.append(out.reshape(2, DIM, size))
        seen += size
    torch.testing.assert_close(torch.cat(outputs, -1), whole, rtol=1e-5, atol=1e-5)
    assert not states[[0, 2]].any()
    if not ring:
        assert torch.equal(states[places], x[..., -state_length:])


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("state_length", [3, 5])
def test_one_call_may_have_more_inputs_than_the_state(compat, ring, state_length, monkeypatch):
    weight, bias = torch.randn(DIM, 4), torch.randn(DIM)
    x, states = torch.randn(3, DIM, LENGTH), torch.randn(3, DIM, state_length)
    counts = torch.tensor([0, 4, 100], dtype=torch.int32) if ring else None
    one_by_one, outputs = states.clone(), []
    for t in range(LENGTH):
        seen = None if counts is None else counts + t
        outputs.append(compat["causal_conv1d_update"](x[..., t], one_by_one, weight, bias, "silu", seen))

    scatter = Tensor.scatter

    def checked_scatter(self, dim, index, source):
        ordered = index.sort(dim).values
        assert not (ordered.diff(dim=dim) == 0).any(), "what is written twice to one place is undefined"
        return scatter(self, dim, index, source)

    monkeypatch.setattr(Tensor, "scatter", checked_scatter)
    found = compat["causal_conv1d_update"](x, states, weight, bias, "silu", counts)
    torch.testing.assert_close(found, torch.stack(outputs, -1), rtol=1e-5, atol=1e-5)
    assert torch.equal(states, one_by_one)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_steps_of_the_convolution_mind_the_environment(compat, backend, monkeypatch):
    arguments = (torch.randn(2, DIM), torch.zeros(2, DIM, 3), torch.ones(DIM, 4))
    monkeypatch.setenv("MAMBARIUM_BACKEND", backend)
    assert compat["causal_conv1d_update"](*arguments).shape == (2, DIM)
    monkeypatch.setenv("MAMBARIUM_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="backend 'triton': expected tensors on cuda; found 'cpu'"):
        compat["causal_conv1d_update"](*arguments)


def test_wrong_steps_of_the_convolution_are_named(compat):
    x, weight = torch.zeros(2, DIM), torch.zeros(DIM, 4)
    for state, activation, message in (
        (torch.zeros(2, DIM, 2), None, "conv_state: expected at least width - 1 = 3 inputs; found 2"),
        (torch.zeros(3, DIM, 3), None, "conv_state: expected shape"),
        (torch.zeros(2, DIM, 3), "relu", "activation: .*found 'relu'"),
    ):
        with pytest.raises(ValueError, match=message):
            compat["causal_conv1d_update"](x, state, weight, activation=activation)
    state = torch.zeros(2, DIM, 3)
    for changed, message in (
        ({"bias": torch.zeros(1)}, r"bias: expected shape \(dim,\)"),
        ({"bias": torch.zeros(DIM, dtype=torch.int64)}, "bias: expected dtype"),
        ({"weight": torch.zeros(DIM, 4, device="meta")}, "weight: expected device cpu; found meta"),
        ({"conv_state_indices": torch.zeros(3, dtype=torch.int32)}, r"conv_state_indices: expected shape \(batch,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            compat["causal_conv1d_update"](**{"x": x, "conv_state": state, "weight": weight, **changed})


def test_padding_steps_of_the_convolution_change_no_state(compat):
    x, weight, states = torch.randn(3, DIM), torch.randn(DIM, 4), torch.randn(5, DIM, 3)
    places = torch.tensor([4, -1, 0], dtype=torch.int32)
    expected = states.clone()
    alone = states[[4, 0]]
    out = compat["causal_conv1d_update"](x[[0, 2]], alone, weight)
    expected[[4, 0]] = alone
    found = compat["causal_conv1d_update"](x, states, weight, conv_state_indices=places)
    assert torch.equal(found[[0, 2]], out) and not found[1].any()
    assert torch.equal(states, expected)


@pytest.mark.parametrize("half", [torch.float32, torch.float16])
def test_the_extension_of_vmamba(compat, half):
    generator = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(2, DIM, LENGTH, generator=generator).to(half) for _ in range(2))
    A = -torch.rand(DIM, D_STATE, generator=generator)
    B, C = (torch.randn(2, 2, D_STATE, LENGTH, generator=generator).to(half) for _ in range(2))
    inputs = [u, delta, A, B, C, torch.randn(DIM, generator=generator), torch.randn(DIM, generator=generator)]
    out, checkpoints = compat["oflex"].fwd(*inputs, True, 1, True)
    grads = compat["oflex"].bwd(*inputs, 2 * out, checkpoints, True, 1)
    leaves = [x.requires_grad_() for x in inputs]
    expected = selective_scan(*leaves[:6], None, leaves[6], True)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected.float(), rtol=2e-3, atol=2e-3)
    for grad, other in zip(grads, torch.autograd.grad(expected, leaves, 2 * expected), strict=True):
        assert grad.shape == other.shape and grad.dtype == other.dtype
        torch.testing.assert_close(grad, other, rtol=1e-2, atol=1e-2)


def test_wrong_arguments_of_the_extension_of_vmamba_are_named(compat):
    u, A, B = torch.randn(2, 6, 9), -torch.rand(6, 3), torch.randn(2, 2, 3, 9)
    out, checkpoints = compat["oflex"].fwd(u, u, A, B, B, None, None, True, 1, True)
    right = {"u": u, "delta": u, "A": A, "B": B, "C": B, "D": None, "delta_bias": None, "delta_softplus": True}
    for changed, message in (
        ({"delta": u[..., :5]}, r"delta: expected shape \(batch, dim, length\)"),
        ({"A": A[:5]}, "A: expected shape"),
        ({"B": B[:, 0]}, r"B: expected shape \(batch, groups, d_state, length\)"),
        ({"C": B[:, :1]}, r"C: expected shape \(batch, groups, d_state, length\)"),
        ({"B": B.repeat(1, 2, 1, 1), "C": B.repeat(1, 2, 1, 1)}, "groups that divide dim = 6; found 4"),
        ({"D": torch.zeros(1)}, r"D: expected shape \(dim,\)"),
    ):
        arguments = {**right, **changed}
        with pytest.raises(ValueError, match=message):
            compat["oflex"].fwd(**arguments, nrows=1, out_float=True)
        with pytest.raises(ValueError, match=message):
            compat["oflex"].bwd(**arguments, dout=out, x=checkpoints, nrows=1)
    with pytest.raises(ValueError, match=r"dout: expected shape"):
        compat["oflex"].bwd(**right, dout=out[..., :4], x=checkpoints, nrows=1)


@pytest.mark.parametrize("in_fp32", [False, True])
def test_norms_of_a_residual_sum(compat, in_fp32):
    x = torch.randn(2, 5, DIM, dtype=torch.bfloat16)
    norm = compat["RMSNorm"](DIM)
    first, residual = norm(x, prenorm=True, residual_in_fp32=in_fp32)
    assert residual.dtype == (torch.float32 if in_fp32 else x.dtype) and first.dtype == x.dtype
    second, total = norm(x, residual.float(), prenorm=True)
    assert total.dtype == torch.float32 and torch.equal(total, 2 * x.float())
    torch.testing.assert_close(second, F.rms_norm(2 * x.float(), (DIM,), norm.weight, 1e-5).to(x.dtype))
    weight, bias = torch.rand(DIM), torch.rand(DIM)
    expected = F.layer_norm(x.float(), (DIM,), weight, bias, 1e-6).to(x.dtype)
    assert torch.equal(compat["layer_norm_fn"](x, weight, bias), expected)

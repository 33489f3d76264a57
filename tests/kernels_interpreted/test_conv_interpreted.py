import pytest
import torch

from mambarium.kernels import causal_conv1d

ALL = ("bias", "seq_idx", "initial_states")


def make_case(batch, length, dim, width, optional=ALL, activation="silu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    documents = (torch.rand(batch, length, generator=generator) < 0.2).cumsum(1).int()
    case = {
        "x": normal(batch, length, dim).transpose(1, 2).to(dtype),
        "weight": normal(dim, width),
        "bias": normal(dim),
        "seq_idx": documents,
        "initial_states": normal(batch, width - 1, dim).transpose(1, 2).to(dtype),
    }
    case = {name: value for name, value in case.items() if name not in ALL or name in optional}
    return {**case, "activation": activation}


def results(case, backend):
    """Outputs, final states and all gradients; the reference computes in float64."""
    inputs = dict(case)
    for name, value in case.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.double() if backend == "reference" else value.clone()
            inputs[name] = value.requires_grad_()
    out, final_states = causal_conv1d(**inputs, return_final_states=True, backend=backend)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(case["x"].dtype) for x in (out, final_states)]
    loss = (out * weights[0]).sum() + (final_states * weights[1]).sum()
    names = [name for name, value in inputs.items() if getattr(value, "requires_grad", False)]
    grads = torch.autograd.grad(loss, [inputs[name] for name in names])
    return {"out": out, "final_states": final_states, **dict(zip(names, grads, strict=True))}


def check(case, tolerance):
    found, expected = results(case, "triton"), results(case, "reference")
    for name, value in found.items():
        distance = (value.double() - expected[name]).norm()
        assert distance <= tolerance * expected[name].norm() + 1e-6, (name, distance)
        if name in case:
            assert value.dtype == case[name].dtype
            assert value.shape == case[name].shape


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize(("length", "dim"), [(1, 5), (2, 1), (3, 33), (17, 5), (63, 2), (64, 65)])
def test_every_input_given(length, dim, width):
    check(make_case(2, length, dim, width), 1e-6)


@pytest.mark.parametrize("optional", [(), ("bias",), ("seq_idx",), ("initial_states",)])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_optional_inputs(optional, activation):
    check(make_case(2, 35, 5, 4, optional, activation), 1e-6)


@pytest.mark.parametrize(("length", "optional"), [(1, ALL), (35, ALL), (35, ())])
def test_reverse(length, optional):
    check({**make_case(2, length, 5, 4, optional), "reverse": True}, 1e-6)


def test_memory_with_adjacent_positions():
    case = make_case(2, 35, 5, 4)
    check({**case, "x": case["x"].contiguous(), "initial_states": case["initial_states"].contiguous()}, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    # The interpreter cuts bfloat16 off where a GPU rounds.
    check(make_case(1, 40, 5, 4, dtype=dtype), 2**-7 if dtype == torch.bfloat16 else 2e-3)


def test_nan_stays_in_its_channel_and_window():
    case = make_case(1, 40, 3, 4, optional=())
    case["x"][0, 1, 31] = torch.nan
    out = causal_conv1d(**case, backend="triton")
    expected = torch.zeros_like(out, dtype=torch.bool)
    expected[0, 1, 31:35] = True
    assert torch.equal(out.isnan(), expected)


@pytest.mark.usefixtures("filled_memory")
def test_no_uninitialised_memory_is_used():
    check(make_case(1, 35, 5, 4), 1e-6)

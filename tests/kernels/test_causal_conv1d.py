import itertools
import random

import pytest
import torch

from mambarium.kernels import causal_conv1d

pytestmark = pytest.mark.usefixtures("device")

NAMES = ("x", "weight", "bias", "initial_states")
LENGTHS = (1, 2, 3, 63, 64, 197, 1023)
DIMS = (1, 5, 16, 17, 48)


def make_case(batch, length, dim, width, *, bias=True, states=True, documents=True, reverse=False, seed=0):
    """Keyword arguments of causal_conv1d in float64, channel-last memory."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    starts = torch.rand(batch, length, generator=generator) < 0.2
    return {
        "x": normal(batch, length, dim).transpose(1, 2),
        "weight": normal(dim, width),
        "bias": normal(dim) if bias else None,
        "initial_states": normal(batch, dim, width - 1) if states else None,
        "seq_idx": starts.cumsum(1, dtype=torch.int32) if documents else None,
        "reverse": reverse,
    }


def to_dtype(case, dtype=torch.float32):
    return {k: v.to(dtype) if k in NAMES and v is not None else v for k, v in case.items()}


def to_half(case, half):
    """The case with inputs of half precision beside float32 parameters."""
    return {k: v if k not in ("x", "initial_states") or v is None else v.to(half) for k, v in to_dtype(case).items()}


def output_weights(x):
    """Numbers that half precision holds exactly, so that it gets the same incoming gradients."""
    return (torch.linspace(0, 9, x.numel(), dtype=torch.float64).sin().view(x.shape) * 16).round() / 16


def results(case, backend=None, activation="silu"):
    case = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    leaves = {k: case[k].requires_grad_() for k in NAMES if case[k] is not None}
    out, final = causal_conv1d(**case, return_final_states=True, activation=activation, backend=backend)
    loss = sum((x.double() * output_weights(x)).sum() for x in (out, final))
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {
        "out": out,
        "final": final,
        **{f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)},
    }


def assert_close(found, expected, outputs, gradients, parameters=None):
    """`parameters`: tolerance of what is float32 beside inputs of half precision."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value.double()).norm() / (value.double().norm() + 1e-12)
        tolerance = gradients if name.startswith("grad") else outputs
        if parameters is not None and found[name].dtype == torch.float32:
            tolerance = parameters
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.thorough
@pytest.mark.parametrize("reverse", [False, True])
def test_reference_gradients_are_those_of_finite_differences(reverse):
    case = make_case(2, 6, 3, 4)

    def function(x, weight, bias, states):
        return causal_conv1d(
            x, weight, bias, case["seq_idx"], states, True, "silu", reverse=reverse, backend="reference"
        )

    assert torch.autograd.gradcheck(function, [case[name].requires_grad_() for name in NAMES])


@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_reference_is_a_padded_convolution(width):
    case = make_case(2, 9, 5, width, documents=False)
    extended = torch.cat([case["initial_states"], case["x"]], -1)
    expected = torch.nn.functional.conv1d(extended, case["weight"][:, None], case["bias"], groups=5)
    torch.testing.assert_close(causal_conv1d(**case, backend="reference"), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 70])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_reverse_is_the_convolution_of_flipped_time(backend, length):
    case = to_dtype(make_case(2, length, 20, 4))
    flipped = {**case, "x": case["x"].flip(-1), "seq_idx": case["seq_idx"].flip(-1), "reverse": True}
    out, final = causal_conv1d(**flipped, return_final_states=True, backend=backend)
    expected_out, expected_final = causal_conv1d(**case, return_final_states=True, backend=backend)
    assert torch.equal(out.flip(-1), expected_out) and torch.equal(final, expected_final)


def test_reverse_has_the_states_of_a_next_chunk():
    case = to_dtype(make_case(2, 30, 5, 4, reverse=True))
    whole, last = causal_conv1d(**case, return_final_states=True)
    parts = [slice(17, 30), slice(15, 17), slice(0, 15)]
    states, outputs = case["initial_states"], []
    for part in parts:
        cut = {**case, "x": case["x"][..., part], "seq_idx": case["seq_idx"][:, part], "initial_states": states}
        # States of another document than the next chunk's first visit must not reach it.
        out, states = causal_conv1d(**cut, return_final_states=True)
        following = case["seq_idx"][:, part.start - 1]
        states = states * (following == case["seq_idx"][:, part.start])[:, None, None]
        outputs.insert(0, out)
    assert torch.equal(torch.cat(outputs, -1), whole) and states.shape == last.shape


FLAGS = ("bias", "states", "documents", "silu", "reverse")
GRID = list(enumerate(itertools.product(LENGTHS, DIMS, (2, 3, 4))))


def draw_flags(index):
    """Independent of each other and of the sizes, which an arithmetic rule of the index is not."""
    drawn = random.Random(index)
    flags, batch = {name: drawn.random() < 0.5 for name in FLAGS[:-1]}, drawn.randint(1, 3)
    return {**flags, "reverse": drawn.random() < 0.5}, batch


def test_the_grid_has_every_pair_of_flags():
    drawn = [draw_flags(index)[0] for index, _ in GRID]
    for one, other in itertools.combinations(FLAGS, 2):
        assert len({(flags[one], flags[other]) for flags in drawn}) == 4, (one, other)


@pytest.mark.parametrize(("index", "length", "dim", "width"), [(index, *sizes) for index, sizes in GRID])
def test_agrees_with_float64_reference(index, length, dim, width):
    flags, batch = draw_flags(index)
    activation = "silu" if flags.pop("silu") else None
    single = to_dtype(make_case(batch, length, dim, width, **flags))
    expected = results(to_dtype(single, torch.float64), "reference", activation)
    assert_close(results(single, activation=activation), expected, 1e-6, 5e-6)


def test_swish_is_silu():
    case = to_dtype(make_case(2, 9, 5, 4))
    assert torch.equal(causal_conv1d(**case, activation="swish"), causal_conv1d(**case, activation="silu"))


@pytest.mark.parametrize("length", [1, 2, 3, 63, 1023])
@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
def test_half_inputs(half, tolerance, length):
    case = to_half(make_case(2, length, 17, 4), half)
    found = results(case)
    for name, value in found.items():
        assert value.dtype == (torch.float32 if name in ("grad weight", "grad bias") else half)
    assert_close(found, results(to_dtype(case, torch.float64), "reference"), tolerance, tolerance, parameters=5e-6)


def test_half_parameters_get_half_gradients():
    found = results(to_dtype(make_case(2, 9, 5, 4), torch.bfloat16))
    assert all(value.dtype == torch.bfloat16 for value in found.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("optional", [True, False])
def test_the_default_dtype_has_no_say(dtype, optional):
    case = to_dtype(make_case(2, 35, 20, 3, bias=optional, states=optional))
    expected = results(case)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = results(case)
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_default_device_has_no_say():
    case = to_dtype(make_case(2, 35, 20, 3))
    case = {k: v.requires_grad_() if k in NAMES else v for k, v in case.items()}

    def run():
        out, final = causal_conv1d(**case, return_final_states=True, activation="silu")
        return (out, final, *torch.autograd.grad((out, final), [case[name] for name in NAMES], (2 * out, final)))

    expected = run()
    with torch.device("meta"):
        found = run()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_more_batch_elements_than_parts():
    case = to_dtype(make_case(45, 6, 5, 4))
    assert_close(results(case), results(to_dtype(case, torch.float64), "reference"), 1e-6, 5e-6)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_one_pass_equals_chunks_and_single_steps(backend, documents, size):
    case = to_dtype(make_case(2, 23, 5, 4, documents=documents))
    whole, last = causal_conv1d(**case, return_final_states=True, backend=backend)
    states, outputs = case["initial_states"], []
    for start in range(0, 23, size):
        chunk = {"x": case["x"][..., start : start + size], "initial_states": states}
        if documents:
            ids = case["seq_idx"]
            chunk["seq_idx"] = ids[:, start : start + size]
            # States belong to the document of the chunk's first position.
            if start:
                continues = ids[:, start] == ids[:, start - 1]
                chunk["initial_states"] = states * continues[:, None, None]
        out, states = causal_conv1d(**{**case, **chunk}, return_final_states=True, backend=backend)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, -1), whole)
    assert torch.equal(states, last)


@pytest.mark.parametrize("layout", ["channel_first", "slice"])
def test_any_strides(layout):
    case = to_dtype(make_case(2, 37, 20, 4))
    expected = results(case)
    x = case["x"].contiguous()
    if layout == "slice":
        wide = torch.full((2, 37, 43), torch.nan)
        x = wide[..., 1:21].transpose(1, 2).copy_(x)
    leaf = x.detach().requires_grad_()
    out = causal_conv1d(**{**case, "x": leaf}, activation="silu")
    assert out.stride() == torch.empty_like(x).stride()
    assert torch.equal(out, expected["out"])
    weight = torch.linspace(0, 9, out.numel()).sin().view(out.shape)
    (grad,) = torch.autograd.grad(out, leaf, weight)
    plain = case["x"].clone().requires_grad_()
    (other,) = torch.autograd.grad(causal_conv1d(**{**case, "x": plain}, activation="silu"), plain, weight)
    assert torch.equal(grad, other)


def test_another_documents_infinities_stay_there():
    case = to_dtype(make_case(1, 8, 3, 4, documents=False))
    case["seq_idx"] = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    clean = results(case)["out"]
    case["x"] = case["x"].clone()
    case["x"][..., :4] = torch.nan
    assert torch.equal(results(case)["out"][..., 4:], clean[..., 4:])


def test_a_narrow_kernel_does_not_see_far_infinities():
    case = to_dtype(make_case(1, 8, 3, 2, documents=False))
    case["x"] = case["x"].clone()
    case["x"][..., 2] = torch.inf
    out = causal_conv1d(**case)
    assert out[..., 4:].isfinite().all()


def test_bit_identical_for_any_number_of_threads():
    case = to_dtype(make_case(5, 70, 50, 4))
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(results(case))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for name, value in run.items():
            assert torch.equal(value, runs[0][name]), name


def test_no_uninitialised_memory_is_used(monkeypatch):
    case = to_dtype(make_case(2, 2, 21, 4))
    expected = results(case)
    real = {name: getattr(torch, name) for name in ("empty", "empty_like")}

    def filled(name):
        def function(*args, **kwargs):
            tensor = real[name](*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(255)

        return function

    for name in real:
        monkeypatch.setattr(torch, name, filled(name))
    for name, value in results(case).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.thorough
@pytest.mark.cpu_only
def test_opcheck():
    from mambarium.kernels.conv.registration import causal_conv1d_forward

    case = {k: v.requires_grad_() if k in NAMES else v for k, v in to_dtype(make_case(2, 9, 10, 4)).items()}
    torch.library.opcheck(
        causal_conv1d_forward,
        (
            case["x"],
            case["weight"],
            case["bias"],
            case["seq_idx"],
            case["initial_states"],
            True,
            True,
            "cpu",
        ),
    )


@pytest.mark.thorough
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(compiler):
    case = to_dtype(make_case(2, 9, 6, 4))

    def function(x, weight):
        out, final = causal_conv1d(**{**case, "x": 2 * x, "weight": weight}, return_final_states=True)
        return out.square().sum() + final.sum()

    leaves = [case[name].clone().requires_grad_() for name in ("x", "weight")]
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    expected = torch.autograd.grad(function(*leaves), leaves)
    for found, value in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_export():
    case = to_dtype(make_case(2, 9, 6, 4))

    class Convolution(torch.nn.Module):
        def forward(self, x):
            return causal_conv1d(**{**case, "x": x})

    exported = torch.export.export(Convolution(), (case["x"],)).module()
    assert torch.equal(exported(case["x"]), Convolution()(case["x"]))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_nan_stays_in_its_channel_and_window(backend):
    case = to_dtype(make_case(2, 40, 20, 4, documents=False))
    clean = causal_conv1d(**case, backend=backend)
    case["x"][1, 3, 30] = torch.nan
    found = causal_conv1d(**case, backend=backend)
    assert found[1, 3, 30:34].isnan().all()
    found[1, 3, 30:34] = clean[1, 3, 30:34]
    assert torch.equal(found, clean)


def test_autocast_keeps_float32():
    case = to_dtype(make_case(2, 9, 6, 4))
    expected = results(case)
    for backend in (None, "reference"):
        with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
            found = results(case, backend)
        assert_close(found, expected, 1e-6, 5e-6)


def test_meta_tensors():
    case = to_dtype(make_case(2, 9, 6, 4))
    case = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    out, final = causal_conv1d(**case, return_final_states=True)
    assert out.device.type == "meta" and out.shape == (2, 6, 9) and final.shape == (2, 6, 3)


def test_flop_counter():
    case = to_dtype(make_case(2, 9, 6, 4))
    case["x"].requires_grad_()
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        causal_conv1d(**case).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 9 * 6 * 4


def test_second_derivatives_are_refused():
    case = to_dtype(make_case(1, 4, 3, 2))
    x = case["x"].requires_grad_()
    (grad,) = torch.autograd.grad(causal_conv1d(**case).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* backend='reference'"):
        grad.sum().backward()


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 6, 9)}, r"x: expected at least one sequence.*found shape \(0, 6, 9\)"),
        ({"x": torch.zeros(2, 0, 9)}, r"x: expected at least one .*channel.*found shape \(2, 0, 9\)"),
        ({"weight": torch.zeros(6, 4, dtype=torch.int64)}, r"weight: expected dtype .*; found torch.int64"),
        ({"bias": torch.zeros(6, dtype=torch.complex64)}, r"bias: expected dtype .*; found torch.complex64"),
        (
            {"initial_states": torch.zeros(2, 6, 3, dtype=torch.int32)},
            r"initial_states: expected dtype .*; found torch.int32",
        ),
        ({"seq_idx": torch.zeros(2, 9, dtype=torch.int64)}, r"seq_idx: expected dtype .*found torch.int64"),
        ({"x": torch.zeros(6, 9)}, r"x: expected shape \(batch, dim, length\).*found \(6, 9\)"),
        ({"weight": torch.zeros(5, 4)}, r"weight: .*dim = 6; found \(5, 4\)"),
        ({"weight": torch.zeros(6, 5), "initial_states": None}, r"weight: .*2 to 4; found 5.*'reference'"),
        ({"bias": torch.zeros(5)}, r"bias: .*found \(5,\)"),
        ({"seq_idx": torch.zeros(2, 8, dtype=torch.int32)}, r"seq_idx: .*\(2, 9\); found \(2, 8\)"),
        ({"seq_idx": torch.zeros(2, 9)}, r"seq_idx: expected dtype .*found torch.float32"),
        ({"initial_states": torch.zeros(2, 6, 4)}, r"initial_states: .*\(2, 6, 3\); found \(2, 6, 4\)"),
        ({"activation": "relu"}, r"activation: expected None, 'silu' or 'swish'; found 'relu'"),
        ({"weight": torch.zeros(6, 4, device="meta")}, r"weight: expected device cpu; found meta"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    case = to_dtype(make_case(2, 9, 6, 4))
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**case, **change})

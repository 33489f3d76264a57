"""The selective scan in torch: dtypes, devices, strides, what is saved, compilers, and which arguments are refused."""

import pytest
import torch
from scan_cases import NAMES, assert_close, make_case, results, to_dtype

from mambarium.kernels import selective_scan

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_has_no_say(dtype):
    case = to_dtype(make_case(2, 35, 20, 3, optional=("z",)))
    expected = results(case)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = results(case)
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_default_device_has_no_say():
    case = to_dtype(make_case(2, 35, 20, 3, optional=("z",)))
    case = {k: v.requires_grad_() if k in NAMES and v is not None else v for k, v in case.items()}
    leaves = [case[name] for name in NAMES if case[name] is not None]

    def run():
        out, last_state = selective_scan(**case, return_last_state=True)
        return (out, last_state, *torch.autograd.grad((out, last_state), leaves, (2 * out, last_state)))

    expected = run()
    with torch.device("meta"):
        found = run()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_mixed_dtypes_are_returned_in_their_inputs_dtypes():
    case = to_dtype(make_case(1, 7, 5, 3))
    case["u"], case["B"], case["A"] = case["u"].bfloat16(), case["B"].half(), case["A"].double()
    found = results(case)
    assert found["out"].dtype == torch.bfloat16
    for name in NAMES:
        assert found[f"grad {name}"].dtype == case[name].dtype


@pytest.mark.parametrize("layout", ["channel_first", "slice", "expanded"])
def test_any_strides(layout, rounding):
    case = to_dtype(make_case(2, 37, 20, 4))
    expected = results(case)
    if layout == "channel_first":
        moved = {name: case[name].contiguous() for name in ("u", "delta", "B", "C", "z")}
    elif layout == "slice":
        moved = {}
        for name in ("u", "delta", "B", "C", "z"):
            wide = torch.full((2, 37, 2 * case[name].shape[1] + 3), torch.nan)
            moved[name] = wide[..., 1 : 1 + case[name].shape[1]].transpose(1, 2)
            moved[name].copy_(case[name])
    else:
        case["u"] = case["u"][:, :1]
        expected = results({**case, "u": case["u"].expand(2, 20, 37).contiguous()}, with_grads=False)
        found = selective_scan(**{**case, "u": case["u"].expand(2, 20, 37)})
        torch.testing.assert_close(found, expected["out"], rtol=rounding, atol=rounding)
        return
    leaves = {name: x.detach().requires_grad_() for name, x in moved.items()}
    out = selective_scan(**{**case, **leaves})
    assert out.stride() == torch.empty_like(moved["u"]).stride()
    torch.testing.assert_close(out, expected["out"], rtol=rounding, atol=rounding)
    grads = torch.autograd.grad(out.sum(), list(leaves.values()))
    plain = {name: case[name].requires_grad_() for name in leaves}
    for grad, other in zip(grads, torch.autograd.grad(selective_scan(**case).sum(), list(plain.values())), strict=True):
        torch.testing.assert_close(grad, other, rtol=rounding, atol=rounding)


@pytest.mark.cpu_only
def test_forward_without_gradient_saves_no_checkpoints():
    case = to_dtype(make_case(1, 64, 16, 4, optional=()))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape), lambda x: x):
        selective_scan(**case)
        assert not saved
        selective_scan(**{**case, "u": case["u"].requires_grad_()})
    assert (1, 2, 1, 4, 16) in [tuple(shape) for shape in saved]


def test_activation_checkpointing_gives_the_same_gradients():
    case = to_dtype(make_case(1, 20, 6, 2))
    u = case["u"].clone().requires_grad_()
    rest = {k: v for k, v in case.items() if k != "u"}
    expected = torch.autograd.grad(selective_scan(u, **rest).square().sum(), u)
    for reentrant in (True, False):
        out = torch.utils.checkpoint.checkpoint(lambda x: selective_scan(x, **rest), u, use_reentrant=reentrant)
        if reentrant:
            u.grad = None
            out.square().sum().backward()
            assert torch.equal(u.grad, expected[0])
        else:
            assert torch.equal(torch.autograd.grad(out.square().sum(), u)[0], expected[0])


def test_second_derivatives_are_refused():
    case = to_dtype(make_case(1, 4, 3, 2))
    u = case["u"].requires_grad_()
    (grad,) = torch.autograd.grad(selective_scan(**case).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* backend='reference'"):
        grad.sum().backward()


@pytest.mark.thorough
@pytest.mark.cpu_only
@pytest.mark.parametrize("save", [False, True])
def test_opcheck(save):
    from mambarium.kernels.scan.registration import selective_scan_forward

    case = to_dtype(make_case(2, 35, 10, 3, groups=2))
    if save:
        case = {k: v.requires_grad_() if k in NAMES else v for k, v in case.items()}
    tensors = [case[name] for name in (*NAMES, "reset")]
    torch.library.opcheck(selective_scan_forward, (*tensors, True, True, save, "cpu"))


@pytest.mark.thorough
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(compiler):
    case = to_dtype(make_case(2, 20, 6, 2))

    def function(u, z):
        out, state = selective_scan(**{**case, "u": 2 * u, "z": z}, return_last_state=True)
        return out.square().sum() + state.sum()

    leaves = [case[name].clone().requires_grad_() for name in ("u", "z")]
    expected = torch.autograd.grad(function(*leaves), leaves)
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for found, value in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(found, value)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*leaves), function(*leaves))


def test_export():
    case = to_dtype(make_case(2, 20, 6, 2))

    class Scan(torch.nn.Module):
        def forward(self, u):
            return selective_scan(**{**case, "u": u})

    exported = torch.export.export(Scan(), (case["u"],)).module()
    assert torch.equal(exported(case["u"]), Scan()(case["u"]))


def test_autocast_keeps_float32():
    case = to_dtype(make_case(2, 20, 6, 2))
    expected = results(case)
    for backend in (None, "reference"):
        with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
            found = results(case, backend)
        assert_close(found, expected, 1e-6, 5e-6)
        assert all(found[name].dtype == torch.float32 for name in found)


def test_meta_tensors():
    case = to_dtype(make_case(2, 20, 6, 2))
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    meta["u"].requires_grad_()
    out, state = selective_scan(**meta, return_last_state=True)
    assert out.device.type == "meta" and out.shape == (2, 6, 20) and state.shape == (2, 6, 2)
    out.sum().backward()
    assert meta["u"].grad.shape == (2, 6, 20)


def test_flop_counter():
    case = to_dtype(make_case(2, 20, 6, 3, optional=("D", "z")))
    case["u"].requires_grad_()
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        out = selective_scan(**case)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * 20 * 6 * (9 * 3 + 2)
    assert counter.get_total_flops() == 3 * forward


def test_eager_calls_and_the_operation_are_the_same():
    case = to_dtype(make_case(2, 35, 20, 3))
    expected = results(case)
    with torch.utils.flop_counter.FlopCounterMode(display=False):  # which makes every call one of the operation
        found = results(case)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_float64_is_served_by_the_reference():
    case = make_case(1, 5, 3, 2)
    assert torch.equal(selective_scan(**case), selective_scan(**case, backend="reference"))
    with pytest.raises(ValueError, match=r"'cpu' serves no float64.*backend='reference'"):
        selective_scan(**case, backend="cpu")


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(0, 6, 20)}, r"u: expected at least one sequence.*found shape \(0, 6, 20\)"),
        ({"u": torch.zeros(2, 0, 20)}, r"u: expected at least one .*channel.*found shape \(2, 0, 20\)"),
        ({"u": torch.zeros(2, 6, 0)}, r"u: expected at least one .*position; found shape \(2, 6, 0\)"),
        ({"A": torch.zeros(6, 2, dtype=torch.int64)}, r"A: expected dtype .*; found torch.int64"),
        ({"D": torch.zeros(6, dtype=torch.complex64)}, r"D: expected dtype .*; found torch.complex64"),
        ({"delta_bias": torch.zeros(6, dtype=torch.int32)}, r"delta_bias: expected dtype .*; found torch.int32"),
        (
            {"initial_state": torch.zeros(2, 6, 2, dtype=torch.complex64)},
            r"initial_state: expected dtype .*; found torch.complex64",
        ),
        ({"D": torch.zeros(6, dtype=torch.int64), "backend": "reference"}, r"D: expected dtype .*; found torch.int64"),
        ({"u": torch.zeros(6, 20)}, r"u: expected shape \(batch, dim, length\); found \(6, 20\)"),
        ({"delta": torch.zeros(2, 6, 19)}, r"delta: .*\(2, 6, 20\); found \(2, 6, 19\)"),
        ({"A": torch.zeros(5, 2)}, r"A: .*dim = 6; found \(5, 2\)"),
        ({"A": torch.zeros(6, 2, dtype=torch.complex64)}, r"A: .*only backend='reference'"),
        ({"B": torch.zeros(2, 3, 20)}, r"B: .*\(2, 2, 20\); found \(2, 3, 20\)"),
        ({"B": torch.zeros(2, 6)}, r"B: expected shape \(dim, d_state\) = \(6, 2\); found \(2, 6\)"),
        ({"B": torch.zeros(2)}, r"B: expected shape .*; found \(2,\)"),
        ({"B": torch.zeros(2, 4, 2, 20)}, r"B: expected groups that divide dim = 6; found 4"),
        ({"C": torch.zeros(2, 2, 20, dtype=torch.int64)}, r"C: expected dtype .*; found torch.int64"),
        ({"D": torch.zeros(5)}, r"D: expected shape \(dim,\) = \(6,\); found \(5,\)"),
        ({"z": torch.zeros(2, 6, 20, device="meta")}, r"z: expected device cpu; found meta"),
        ({"delta_bias": torch.zeros(6, 1)}, r"delta_bias: .*found \(6, 1\)"),
        ({"initial_state": torch.zeros(1, 6, 2)}, r"initial_state: .*\(2, 6, 2\); found \(1, 6, 2\)"),
        ({"reset": torch.zeros(2, 20)}, r"reset: expected dtype torch.bool; found torch.float32"),
        ({"backend": "cuda"}, r"backend: expected one of triton, cpu, reference; found 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    case = to_dtype(make_case(2, 20, 6, 2))
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**case, **change})

import itertools
import random

import pytest
import torch

from mambarium.kernels import selective_scan

pytestmark = pytest.mark.usefixtures("device")

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
LENGTHS = (1, 2, 3, 63, 64, 65, 197, 1023)  # the longest is scanned on a GPU in segments side by side
DIMS = (1, 5, 16, 17, 48)
# Cut into parts of the batch of several elements and into spans of blocks that are added up.
MANY_PARTS = {"batch": 45, "length": 35, "dim": 150, "d_state": 3}


def make_case(
    batch, length, dim, d_state, *, groups=1, optional=NAMES[5:], reset=True, softplus=True, reverse=False, seed=0
):
    """Keyword arguments of selective_scan in float64: channel-last memory, decaying states."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    case = {
        "u": normal(batch, length, dim).transpose(1, 2),
        "delta": normal(batch, length, dim).transpose(1, 2),
        "A": -4 * torch.rand(dim, d_state, generator=generator, dtype=torch.float64),
        "B": normal(batch, length, groups, d_state).permute(0, 2, 3, 1),
        "C": normal(batch, length, groups, d_state).permute(0, 2, 3, 1),
        "D": normal(dim),
        "z": normal(batch, length, dim).transpose(1, 2),
        "delta_bias": normal(dim),
        "initial_state": normal(batch, dim, d_state),
    }
    for name in NAMES[5:]:
        if name not in optional:
            case[name] = None
    if groups == 1:
        case["B"], case["C"] = case["B"][:, 0], case["C"][:, 0]
    if not softplus:
        case["delta"] = case["delta"].abs()
        case["delta_bias"] = None if case["delta_bias"] is None else case["delta_bias"].abs()
    if reset:
        case["reset"] = torch.rand(batch, length, generator=generator) < 0.1
    return {**case, "delta_softplus": softplus, "reverse": reverse}


def to_dtype(case, half=torch.float32):
    """The case with float32 parameters and states, and the other inputs in a dtype."""
    kinds = {name: half if name in ("u", "delta", "B", "C", "z") else torch.float32 for name in NAMES}
    converted = {name: case[name].to(kind) for name, kind in kinds.items() if case[name] is not None}
    return {**case, **converted}


def to_double(case):
    return {k: v.double() if k in NAMES and v is not None else v for k, v in case.items()}


def output_weights(x):
    """Numbers that half precision holds exactly, so that it gets the same incoming gradients."""
    return (torch.linspace(0, 9, x.numel(), dtype=torch.float64).sin().view(x.shape) * 16).round() / 16


def results(case, backend=None, with_grads=True, outputs=("out", "last_state")):
    """Outputs, last state and gradients of all inputs, by name; the loss is taken of `outputs`."""
    case = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    leaves = {k: case[k].requires_grad_(with_grads) for k in NAMES if case[k] is not None}
    out, last_state = selective_scan(**case, return_last_state=True, backend=backend)
    found = {"out": out, "last_state": last_state}
    if with_grads:
        loss = sum((found[name].double() * output_weights(found[name])).sum() for name in outputs)
        grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        found.update({f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)})
    return found


def assert_close(found, expected, outputs, gradients, parameters=None):
    """`parameters`: tolerance of what is float32 beside inputs of half precision."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = value.double().norm()
        if name == "grad delta_bias":  # a sum that may cancel: over batch and length of the gradient of delta
            size = max(size, expected["grad delta"].double().norm())
        error = (found[name].double() - value.double()).norm() / (size + 1e-12)
        tolerance = gradients if name.startswith("grad") else outputs
        if parameters is not None and found[name].dtype == torch.float32:
            tolerance = parameters
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize(("softplus", "reverse"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("groups", [1, 2])
def test_reference_gradients_are_those_of_finite_differences(softplus, reverse, groups):
    case = make_case(2, 3, 4, 2, groups=groups, softplus=softplus)

    def function(*tensors):
        return selective_scan(
            *tensors[:8],
            softplus,
            True,
            initial_state=tensors[8],
            reset=case["reset"],
            reverse=reverse,
            backend="reference",
        )

    assert torch.autograd.gradcheck(function, [case[name].requires_grad_() for name in NAMES])
    assert torch.autograd.gradgradcheck(function, [case[name] for name in NAMES])


def test_reference_is_the_recurrence():
    case = make_case(1, 4, 1, 1, optional=(), reset=False, softplus=False)
    u, delta, A, B, C = (case[name].flatten() for name in NAMES[:5])
    h, expected = 0.0, []
    for t in range(4):
        h = torch.exp(delta[t] * A[0]) * h + delta[t] * B[t] * u[t]
        expected.append(h * C[t])
    found = selective_scan(**case, backend="reference")
    torch.testing.assert_close(found.flatten(), torch.stack(expected))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_reverse_is_the_scan_of_flipped_time(backend, rounding):
    case = to_dtype(make_case(2, 67, 20, 3, groups=2))
    rows = {name: case[name].flip(-1) for name in ("u", "delta", "B", "C", "z", "reset")}
    found = results({**case, **rows, "reverse": True}, backend, with_grads=False)
    expected = results(case, backend, with_grads=False)
    tolerance = 1e-6 if backend == "reference" else rounding
    torch.testing.assert_close(found["out"].flip(-1), expected["out"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found["last_state"], expected["last_state"], rtol=tolerance, atol=tolerance)
    assert found["out"].stride() == case["u"].stride()


def test_complex_A_equals_the_conjugate_pairs():
    case = make_case(2, 5, 3, 2, optional=())
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    A = torch.complex(case["A"], torch.randn(3, 2, generator=generator, dtype=torch.float64))
    B, C = (torch.randn(3, 2, generator=generator, dtype=torch.complex128) for _ in range(2))
    found = selective_scan(**{**case, "A": A, "B": B, "C": C}, backend="reference")
    pairs = {
        "A": torch.cat([A, A.conj()], 1),
        "B": torch.cat([B, B.conj()], 1),
        "C": torch.cat([C, C.conj()], 1),
    }
    doubled = selective_scan(**{**case, **pairs}, backend="reference")
    torch.testing.assert_close(2 * found, doubled)
    interleaved = {
        name: torch.view_as_real(x[None, :1].expand(2, 5, 2).transpose(1, 2)).flatten(-2)
        for name, x in (("B", B), ("C", C))
    }
    torch.testing.assert_close(
        selective_scan(**{**case, "A": A, **interleaved}, backend="reference")[:, :1],
        selective_scan(**{**case, "A": A, "B": B[:1].expand(3, 2), "C": C[:1].expand(3, 2)}, backend="reference")[
            :, :1
        ],
    )


FLAGS = ("grouped", "reset", "softplus", "reverse", *NAMES[5:])
GRID = list(enumerate(itertools.product(LENGTHS, DIMS)))


def draw_flags(index, dim):
    """Independent of each other and of the sizes, which an arithmetic rule of the index is not."""
    drawn = random.Random(index)
    flags = {name: drawn.random() < 0.5 for name in FLAGS}
    flags["grouped"] = flags["grouped"] and dim % 2 == 0
    return flags, drawn.randint(1, 3), drawn.choice((1, 3, 8, 16))


def test_the_grid_has_every_pair_of_flags():
    drawn = [draw_flags(index, dim)[0] for index, (_, dim) in GRID]
    for one, other in itertools.combinations(FLAGS, 2):
        assert len({(flags[one], flags[other]) for flags in drawn}) == 4, (one, other)


@pytest.mark.parametrize(("index", "length", "dim"), [(index, *sizes) for index, sizes in GRID])
def test_agrees_with_float64_reference(index, length, dim):
    flags, batch, d_state = draw_flags(index, dim)
    case = make_case(
        batch,
        length,
        dim,
        d_state,
        groups=2 if flags["grouped"] else 1,
        optional=[name for name in NAMES[5:] if flags[name]],
        reset=flags["reset"],
        softplus=flags["softplus"],
        reverse=flags["reverse"],
    )
    single = to_dtype(case)
    assert_close(results(single), results(to_double(single), "reference"), 1e-6, 5e-6)


@pytest.mark.parametrize("sizes", [MANY_PARTS, {"batch": 33, "length": 3, "dim": 160, "d_state": 2, "groups": 2}])
def test_parts_of_batch_and_channels_add_up(sizes):
    single = to_dtype(make_case(**sizes))
    assert_close(results(single), results(to_double(single), "reference"), 1e-6, 5e-6)


@pytest.mark.parametrize(("B_groups", "C_groups"), [(1, 3), (2, 3), (6, 1), (None, 2), (1, None), (None, None)])
def test_constant_and_unlike_groups(B_groups, C_groups):
    """None: constant. Every shape of B is served beside every shape of C."""
    case = make_case(2, 35, 6, 3)
    generator = torch.Generator().manual_seed(1)
    for name, groups in (("B", B_groups), ("C", C_groups)):
        shape = (6, 3) if groups is None else (2, groups, 3, 35)
        case[name] = torch.randn(*shape, generator=generator, dtype=torch.float64)
    single = to_dtype(case)
    assert_close(results(single), results(to_double(single), "reference"), 1e-6, 5e-6)


@pytest.mark.parametrize("output", ["out", "last_state"])
def test_gradients_of_one_output_alone(output):
    single = to_dtype(make_case(2, 35, 20, 3, groups=2))
    found = results(single, outputs=(output,))
    assert_close(found, results(to_double(single), "reference", outputs=(output,)), 1e-6, 5e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 63, 1023])
@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
def test_half_inputs(half, tolerance, length):
    case = to_dtype(make_case(2, length, 48, 16, groups=2), half)
    found = results(case)
    assert found["out"].dtype == found["grad B"].dtype == half
    assert found["last_state"].dtype == found["grad A"].dtype == torch.float32
    assert_close(found, results(to_double(case), "reference"), tolerance, tolerance, parameters=5e-6)


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


@pytest.mark.parametrize("size", [1, 5, 32])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_one_pass_equals_chunks_and_single_steps(backend, size):
    case = to_dtype(make_case(2, 67, 9, 5, reset=True))
    whole = results(case, backend, with_grads=False)
    state, outputs = case["initial_state"], []
    for start in range(0, 67, size):
        part = {k: case[k][..., start : start + size] for k in ("u", "delta", "B", "C", "z", "reset")}
        out, state = selective_scan(**{**case, **part, "initial_state": state}, return_last_state=True, backend=backend)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, -1), whole["out"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, whole["last_state"], rtol=1e-5, atol=1e-5)


def test_gradient_flows_from_chunk_to_chunk():
    case = to_dtype(make_case(2, 40, 5, 4))
    whole = results(case)
    leaves = {name: case[name].clone().requires_grad_() for name in NAMES}
    state, total = leaves["initial_state"], 0
    weight = output_weights(torch.empty(2, 5, 40))
    for part in (slice(0, 33), slice(33, 40)):
        cut = {k: leaves[k][..., part] for k in ("u", "delta", "B", "C", "z")}
        out, state = selective_scan(
            **{**case, **leaves, **cut, "reset": case["reset"][:, part], "initial_state": state},
            return_last_state=True,
        )
        total = total + (out.double() * weight[..., part]).sum()
    total = total + (state.double() * output_weights(state)).sum()
    grads = torch.autograd.grad(total, list(leaves.values()))
    found = {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    assert_close(found, {k: v for k, v in whole.items() if k.startswith("grad")}, 1e-5, 1e-5)


def test_reset_separates_documents():
    case = to_dtype(make_case(1, 50, 20, 4, optional=("D", "z"), reset=False))
    boundary = 33
    case["reset"] = torch.arange(50)[None] == boundary
    packed = selective_scan(**case)
    alone = {k: case[k][..., boundary:] for k in ("u", "delta", "B", "C", "z")}
    expected = selective_scan(**{**case, **alone, "reset": None})
    torch.testing.assert_close(packed[..., boundary:], expected)
    case["u"][..., : boundary - 1] = torch.nan
    assert selective_scan(**case)[..., boundary:].isfinite().all()


def test_bit_identical_for_any_number_of_threads():
    case = to_dtype(make_case(**MANY_PARTS))
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            runs.append(results(case))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for name, value in run.items():
            assert torch.equal(value, runs[0][name]), name


@pytest.mark.parametrize("reverse", [False, True])
def test_no_uninitialised_memory_is_used(monkeypatch, reverse):
    case = to_dtype(make_case(**MANY_PARTS, reverse=reverse))
    expected = results(case)
    real = {name: getattr(torch, name) for name in ("empty", "empty_like")}

    def filled(name):
        def function(*args, **kwargs):
            tensor = real[name](*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(255)

        return function

    for name in real:
        monkeypatch.setattr(torch, name, filled(name))
    found = results(case)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("backend", [None, "reference"])
def test_nan_stays_in_its_channel_and_batch_element(backend):
    case = to_dtype(make_case(2, 40, 20, 4))
    clean = selective_scan(**case, backend=backend)
    for name in ("u", "delta", "z"):
        poisoned = case[name].clone()
        poisoned[1, 3, 7] = torch.nan
        out = selective_scan(**{**case, name: poisoned}, backend=backend)
        assert out[1, 3, 7].isnan()
        out[1, 3], clean_rest = clean[1, 3], clean
        assert torch.equal(out, clean_rest)


def test_softplus_keeps_its_relative_accuracy_for_very_negative_steps():
    delta = torch.linspace(-80, 80, 64)[None, None]
    ones = torch.ones(1, 1, 64)
    found = selective_scan(
        ones,
        delta,
        torch.zeros(1, 1),
        ones,
        ones,
        delta_softplus=True,
        reset=torch.ones(1, 64, dtype=torch.bool),
    )
    expected = torch.nn.functional.softplus(delta.double())
    assert ((found.double() - expected) / expected).abs().max() < 1e-5


def test_extreme_decays():
    ones = torch.ones(1, 1, 1)
    state = torch.ones(1, 1, 1)
    for exponent in (-1e30, -200.0, -100.0, -87.0, -1.0, 0.0, 1.0, 88.0, 89.0, 1e30):
        A = torch.full((1, 1), exponent)
        _, last = selective_scan(ones, ones, A, 0 * ones, ones, return_last_state=True, initial_state=state)
        torch.testing.assert_close(last, torch.exp(A)[None], rtol=2e-5, atol=1e-37)


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


@pytest.mark.cpu_only
@pytest.mark.parametrize("save", [False, True])
def test_opcheck(save):
    from mambarium.kernels.scan.registration import selective_scan_forward

    case = to_dtype(make_case(2, 35, 10, 3, groups=2))
    if save:
        case = {k: v.requires_grad_() if k in NAMES else v for k, v in case.items()}
    rows = [case[k].transpose(1, 2) for k in ("u", "delta")] + [case["A"]]
    rows += [case[k].permute(0, 3, 1, 2) for k in ("B", "C")]
    rows += [case["D"], case["z"].transpose(1, 2), case["delta_bias"], case["initial_state"], case["reset"]]
    torch.library.opcheck(selective_scan_forward, (*rows, True, True, save, "cpu"))


def test_compiles_without_graph_breaks():
    case = to_dtype(make_case(2, 20, 6, 2))

    def function(u, z):
        out, state = selective_scan(**{**case, "u": 2 * u, "z": z}, return_last_state=True)
        return out.square().sum() + state.sum()

    leaves = [case[name].clone().requires_grad_() for name in ("u", "z")]
    expected = torch.autograd.grad(function(*leaves), leaves)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
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

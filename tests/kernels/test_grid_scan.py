import itertools

import pytest
import torch

from mambarium.kernels import BIDIRECTIONAL, CROSS, Route, grid_scan, selective_scan
from mambarium.kernels.grid.routes import visited_positions

pytestmark = pytest.mark.usefixtures("device")

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
EVERY_ROUTE = [Route(*numbers) for numbers in itertools.product((0, 1, 2, 7), (False, True), (False, True))]
# Cut into parts of the batch of several elements and into several parts of the channels.
MANY_PARTS = {"batch": 45, "dim": 150, "height": 5, "width": 7, "d_state": 3}


def make_case(batch, dim, height, width, d_state, *, routes=CROSS, shared=True, optional=NAMES[5:], softplus=True):
    """Keyword arguments of grid_scan in float32: channel-last memory, decaying states."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)

    def grid(*channels):
        x = torch.randn(batch, height, width, *channels, generator=generator)
        return x.permute(0, *range(3, x.dim()), 1, 2)

    count = len(routes)
    case = {
        "u": grid(dim) if shared else grid(count, dim),
        "delta": grid(count, dim),
        "A": -4 * torch.rand(count, dim, d_state, generator=generator),
        "B": grid(count, d_state),
        "C": grid(count, d_state),
        "D": torch.randn(count, dim, generator=generator),
        "delta_bias": torch.randn(count, dim, generator=generator),
    }
    case.update({name: None for name in NAMES[5:] if name not in optional})
    if not softplus:
        case["delta"] = case["delta"].abs()
        case["delta_bias"] = None if case["delta_bias"] is None else case["delta_bias"].abs()
    return {**case, "delta_softplus": softplus, "routes": routes}


def to_double(case):
    return {k: v.double() if k in NAMES and v is not None else v for k, v in case.items()}


def results(case, function=grid_scan, **arguments):
    """Output and gradients of all inputs, by name."""
    case = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    leaves = {k: case[k].requires_grad_() for k in NAMES if case[k] is not None}
    out = function(**case, **arguments)
    # Numbers that half precision holds exactly, so that it gets the same incoming gradients.
    weights = (torch.linspace(0, 9, out.numel(), dtype=torch.float64).sin().view(out.shape) * 16).round() / 16
    grads = torch.autograd.grad((out.double() * weights).sum(), list(leaves.values()))
    return {"out": out, **{f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}}


def assert_close(found, expected, output, gradients):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        size = value.double().norm()
        if name == "grad delta_bias":  # a sum that may cancel
            size = max(size, expected["grad delta"].double().norm())
        error = (found[name].double() - value.double()).norm() / (size + 1e-12)
        assert error <= (gradients if name.startswith("grad") else output), f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (5, 9), (14, 14)])
def test_every_route_visits_every_position_once(height, width):
    for visited in visited_positions(tuple(EVERY_ROUTE), height, width):
        assert sorted(visited.tolist()) == list(range(height * width))


@pytest.mark.cpu_only
def test_routes_are_the_published_orders():
    grid = torch.arange(4 * 6).view(4, 6)
    raster, columns = grid.flatten(), grid.t().flatten()
    # VMamba's cross-scan: rows, columns, and both flipped.
    expected = torch.stack([raster, columns, raster.flip(0), columns.flip(0)])
    assert torch.equal(torch.from_numpy(visited_positions(CROSS, 4, 6).copy()), expected.int())
    assert visited_positions(BIDIRECTIONAL, 1, 4).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    # LocalMamba's windows: row by row, and with rows and columns exchanged.
    windows = grid.view(2, 2, 3, 2)
    by_rows = windows.permute(0, 2, 1, 3).flatten()
    by_columns = windows.permute(2, 0, 3, 1).flatten()
    found = visited_positions((Route(2), Route(2, by_columns=True), Route(2, backwards=True)), 4, 6)
    assert found.tolist() == [by_rows.tolist(), by_columns.tolist(), by_rows.flip(0).tolist()]


def test_windows_are_cut_off_at_the_border():
    assert visited_positions((Route(2),), 3, 3).tolist() == [[0, 1, 3, 4, 2, 5, 6, 7, 8]]


@pytest.mark.parametrize("shared", [True, False])
def test_reference_is_the_sum_of_flipped_and_transposed_scans(shared):
    case = to_double(make_case(2, 3, 4, 5, 2, shared=shared))
    total = 0
    for route, (transposed, flipped) in enumerate([(False, False), (True, False), (False, True), (True, True)]):

        def along(x, transposed=transposed, flipped=flipped):
            x = (x.transpose(-1, -2) if transposed else x).flatten(-2)
            return x.flip(-1) if flipped else x

        inputs = [along(x) for x in (case["u"] if shared else case["u"][:, route], case["delta"][:, route])]
        inputs += [case["A"][route], along(case["B"][:, route]), along(case["C"][:, route]), case["D"][route]]
        y = selective_scan(*inputs, None, case["delta_bias"][route], True, backend="reference")
        y = y.flip(-1) if flipped else y
        total = total + (y.unflatten(-1, (5, 4)).transpose(-1, -2) if transposed else y.unflatten(-1, (4, 5)))
    torch.testing.assert_close(grid_scan(**case, backend="reference"), total)


@pytest.mark.thorough
def test_reference_gradients_are_those_of_finite_differences():
    case = to_double(make_case(1, 2, 2, 3, 2, routes=(Route(2), Route(0, True, True))))

    def function(*tensors):
        return grid_scan(*tensors, True, routes=case["routes"], backend="reference")

    inputs = [case[name].requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("route", EVERY_ROUTE)
def test_agrees_with_float64_reference_on_every_route(route):
    case = make_case(2, 17, 5, 9, 2, routes=(route,))
    assert_close(results(case), results(to_double(case), backend="reference"), 1e-6, 5e-6)


@pytest.mark.parametrize(
    ("sizes", "flags"),
    [
        ((1, 1, 1, 1, 1), {}),
        ((2, 20, 1, 33, 16), {"routes": BIDIRECTIONAL, "shared": False}),
        ((1, 48, 7, 7, 1), {}),
        ((3, 33, 13, 11, 5), {"routes": (*CROSS, Route(7), Route(2, True, True))}),
        ((2, 16, 3, 37, 4), {"optional": ("D",), "softplus": False}),
        ((2, 5, 37, 3, 3), {"optional": ("delta_bias",), "shared": False}),
        ((1, 3, 29, 31, 2), {"routes": CROSS[1:]}),  # long: on a GPU segments of a route are scanned side by side
        ((1, 40, 9, 8, 17), {"optional": (), "softplus": False}),
        (tuple(MANY_PARTS.values()), {}),
    ],
)
def test_agrees_with_float64_reference(sizes, flags):
    case = make_case(*sizes, **flags)
    assert_close(results(case), results(to_double(case), backend="reference"), 1e-6, 5e-6)


@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_inputs(half, tolerance):
    case = make_case(2, 20, 7, 9, 4)
    case = {k: v.to(half) if k in ("u", "delta", "B", "C") else v for k, v in case.items()}
    found = results(case)
    assert found["out"].dtype == found["grad B"].dtype == half and found["grad A"].dtype == torch.float32
    assert_close(found, results(to_double(case), backend="reference"), tolerance, tolerance)


@pytest.mark.parametrize("layout", ["channel_first", "slice", "expanded"])
def test_any_strides(layout, rounding):
    case = make_case(2, 20, 5, 7, 4)
    expected = results(case)
    moved = dict(case)
    for name in ("u", "delta", "B", "C"):
        if layout == "channel_first":
            moved[name] = case[name].contiguous()
        elif layout == "slice":
            wide = torch.full((*case[name].shape[:-2], 9, 12), torch.nan)
            moved[name] = wide[..., 2:7, 1:8]
            moved[name].copy_(case[name])
    if layout == "expanded":
        moved["u"] = case["u"][:, :1].expand(2, 20, 5, 7)
        expected["out"] = grid_scan(**{**case, "u": moved["u"].contiguous()})
    leaves = [moved[name].detach().requires_grad_() for name in NAMES]
    out = grid_scan(*leaves, True, routes=CROSS)
    torch.testing.assert_close(out, expected["out"], rtol=rounding, atol=rounding)
    if layout != "expanded":
        assert out.stride() == torch.empty_like(moved["u"]).stride()
    for grad, leaf in zip(torch.autograd.grad(out.sum(), leaves), leaves, strict=True):
        assert grad.shape == leaf.shape and grad.isfinite().all()


def test_the_gradient_may_be_expanded():
    case = make_case(2, 6, 3, 4, 2)
    u = case["u"].requires_grad_()
    (found,) = torch.autograd.grad(grid_scan(**case).sum(), u)
    out = grid_scan(**case)
    torch.testing.assert_close(found, torch.autograd.grad(out, u, torch.ones_like(out).contiguous())[0])


def test_bit_identical_for_any_number_of_threads():
    case = make_case(**MANY_PARTS)
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
    case = make_case(**MANY_PARTS)
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
    case = make_case(2, 20, 4, 5, 3)
    clean = grid_scan(**case, backend=backend)
    for name in ("u", "delta"):
        poisoned = case[name].clone()
        poisoned[1, ..., 3, 2, 1] = torch.nan
        found = grid_scan(**{**case, name: poisoned}, backend=backend)
        assert found[1, 3, 2, 1].isnan()
        found[1, 3] = clean[1, 3]
        assert torch.equal(found, clean)


def test_the_default_device_and_dtype_have_no_say():
    case = make_case(1, 6, 3, 4, 2)
    for name in NAMES:
        case[name] = case[name].requires_grad_()
    leaves = [case[name] for name in NAMES]

    def run():
        out = grid_scan(**case)
        return (out, *torch.autograd.grad(out, leaves, 2 * out))

    expected = run()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.thorough
@pytest.mark.cpu_only
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_opcheck(save, shared):
    from mambarium.kernels.grid.registration import encode_routes, grid_scan_forward

    case = make_case(2, 10, 3, 5, 3, shared=shared, routes=BIDIRECTIONAL)
    tensors = [case[name].detach().requires_grad_(save) for name in NAMES]
    torch.library.opcheck(grid_scan_forward, (*tensors, encode_routes(BIDIRECTIONAL), True, save, "cpu"))


@pytest.mark.thorough
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(compiler):
    case = make_case(2, 6, 3, 4, 2)

    def function(u, delta):
        return grid_scan(**{**case, "u": 2 * u, "delta": delta}).square().sum()

    leaves = [case[name].clone().requires_grad_() for name in ("u", "delta")]
    expected = torch.autograd.grad(function(*leaves), leaves)
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for found, value in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_export():
    case = make_case(2, 6, 3, 4, 2)

    class Scan(torch.nn.Module):
        def forward(self, u):
            return grid_scan(**{**case, "u": u})

    exported = torch.export.export(Scan(), (case["u"],)).module()
    assert torch.equal(exported(case["u"]), Scan()(case["u"]))


def test_meta_tensors():
    case = make_case(2, 6, 3, 4, 2)
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    meta["delta"].requires_grad_()
    out = grid_scan(**meta)
    assert out.device.type == "meta" and out.shape == (2, 6, 3, 4)
    out.sum().backward()
    assert meta["delta"].grad.shape == (2, 4, 6, 3, 4)


def test_autocast_keeps_float32():
    case = make_case(2, 6, 3, 4, 2)
    expected = results(case)
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        found = results(case)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_flop_counter():
    case = make_case(2, 6, 3, 4, 5, optional=("D",))
    case["u"].requires_grad_()
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        out = grid_scan(**case)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * 3 * 4 * 4 * 6 * (9 * 5 + 1)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.cpu_only
def test_forward_without_gradient_saves_no_checkpoints():
    case = make_case(1, 16, 8, 8, 4)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(tuple(x.shape)), lambda x: x):
        grid_scan(**case)
        assert not saved
        grid_scan(**{**case, "u": case["u"].requires_grad_()})
    assert (1, 2, 4, 4, 16) in saved


def test_second_derivatives_are_refused():
    case = make_case(1, 3, 2, 2, 2)
    u = case["u"].requires_grad_()
    (grad,) = torch.autograd.grad(grid_scan(**case).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* backend='reference'"):
        grad.sum().backward()


def test_float64_is_served_by_the_reference():
    case = to_double(make_case(1, 3, 2, 2, 2))
    assert torch.equal(grid_scan(**case), grid_scan(**case, backend="reference"))
    with pytest.raises(ValueError, match=r"'cpu' serves no float64"):
        grid_scan(**case, backend="cpu")


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 6, 12)}, r"u: expected shape \(batch, dim, height, width\) or .*; found \(2, 6, 12\)"),
        ({"u": torch.zeros(0, 6, 3, 4)}, r"u: expected at least one .*; found \(0, 6, 3, 4\)"),
        ({"u": torch.zeros(2, 3, 6, 3, 4)}, r"u: .*\(2, 4, 6, 3, 4\); found \(2, 3, 6, 3, 4\)"),
        ({"u": torch.zeros(2, 6, 3, 4, dtype=torch.int32)}, r"u: expected dtype .*; found torch.int32"),
        ({"delta": torch.zeros(2, 6, 3, 4)}, r"delta: .*\(2, 4, 6, 3, 4\); found \(2, 6, 3, 4\)"),
        ({"delta": torch.zeros(2, 4, 6, 4, 3)}, r"delta: .*\(2, 4, 6, 3, 4\); found \(2, 4, 6, 4, 3\)"),
        ({"A": torch.zeros(3, 6, 2)}, r"A: .*routes = 4 and dim = 6; found \(3, 6, 2\)"),
        ({"A": torch.zeros(4, 6, 2, dtype=torch.complex64)}, r"A: expected dtype .*; found torch.complex64"),
        ({"B": torch.zeros(2, 4, 3, 3, 4)}, r"B: .*\(2, 4, 2, 3, 4\); found \(2, 4, 3, 3, 4\)"),
        ({"C": torch.zeros(2, 4, 2, 3, 4, device="meta")}, r"C: expected device cpu; found meta"),
        ({"D": torch.zeros(24)}, r"D: expected shape \(routes, dim\) = \(4, 6\); found \(24,\)"),
        ({"delta_bias": torch.zeros(6)}, r"delta_bias: .*\(4, 6\); found \(6,\)"),
        ({"routes": ()}, r"routes: expected at least one route; found none"),
        ({"routes": ("raster",)}, r"routes: expected Route objects; found 'raster'"),
        ({"routes": (Route(-1),)}, r"routes: expected window_size as an integer of 0 or more; found -1"),
        ({"routes": (Route(2.5),)}, r"routes: expected window_size as an integer of 0 or more; found 2.5"),
        ({"backend": "cuda"}, r"backend: expected one of triton, cpu, reference; found 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    case = make_case(2, 6, 3, 4, 2)
    with pytest.raises(ValueError, match=message):
        grid_scan(**{**case, **change})

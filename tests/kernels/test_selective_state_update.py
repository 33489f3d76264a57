import pytest
import torch

from mambarium.kernels import selective_scan, selective_state_update

pytestmark = pytest.mark.usefixtures("device")

OPTIONAL = ("D", "z", "dt_bias")


def make_case(batch, dim, d_state, *, heads=None, groups=1, optional=OPTIONAL, dtype=torch.float32, entries=None):
    """Keyword arguments of selective_state_update; without heads the shapes of Mamba-1."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    rows, matrices = ((heads, dim), (groups, d_state)) if heads else ((dim,), (d_state,))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    case = {
        "state": normal(entries or batch, *rows, d_state),
        "x": normal(batch, *rows),
        "dt": normal(batch, *rows),
        "A": -4 * torch.rand(*rows, d_state, generator=generator, dtype=torch.float64).float(),
        "B": normal(batch, *matrices),
        "C": normal(batch, *matrices),
        "D": normal(*rows).float(),
        "z": normal(batch, *rows),
        "dt_bias": normal(*rows).float(),
    }
    return {k: v for k, v in case.items() if k not in OPTIONAL or k in optional}


def as_one_position(case):
    """The same step as a scan over one position, heads as groups of channels; float64, by the reference."""
    batch, dim = case["x"].shape[0], case["x"][0].numel()
    double = {k: v.double() for k, v in case.items()}
    heads, groups = case["x"].dim() == 3, case["B"].shape[1] if case["B"].dim() == 3 else 1
    return selective_scan(
        double["x"].reshape(batch, dim, 1),
        double["dt"].reshape(batch, dim, 1),
        double["A"].reshape(dim, -1),
        double["B"].reshape(batch, groups, -1, 1) if heads else double["B"][..., None],
        double["C"].reshape(batch, groups, -1, 1) if heads else double["C"][..., None],
        double["D"].flatten() if "D" in case else None,
        double["z"].reshape(batch, dim, 1) if "z" in case else None,
        double["dt_bias"].flatten() if "dt_bias" in case else None,
        True,
        True,
        initial_state=double["state"].reshape(batch, dim, -1),
        backend="reference",
    )


@pytest.mark.parametrize("optional", [OPTIONAL, (), ("D",), ("z",), ("dt_bias",)])
@pytest.mark.parametrize(("heads", "groups"), [(None, 1), (1, 1), (4, 1), (4, 2)])
def test_a_step_is_a_scan_over_one_position(heads, groups, optional):
    case = make_case(3, 5, 7, heads=heads, groups=groups, optional=optional)
    out, state = as_one_position(case)
    found = selective_state_update(**case, dt_softplus=True)
    assert found.shape == case["x"].shape and found.dtype == case["x"].dtype
    torch.testing.assert_close(found.double().flatten(), out.flatten(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(case["state"].double().flatten(), state.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "dim", "d_state"), [(1, 1, 1), (2, 16, 16), (3, 17, 15), (2, 33, 17), (1, 5, 129)])
def test_odd_sizes(batch, dim, d_state):
    case = make_case(batch, dim, d_state)
    out, state = as_one_position(case)
    found = selective_state_update(**case, dt_softplus=True)
    torch.testing.assert_close(found.double(), out[..., 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(case["state"].double(), state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_full_pass_chunks_and_steps_are_one(backend):
    length = 40
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    u, delta, z = (torch.randn(2, 20, length, generator=generator) for _ in range(3))
    B, C = (torch.randn(2, 4, length, generator=generator) for _ in range(2))
    A, D = -torch.rand(20, 4, generator=generator), torch.randn(20, generator=generator)
    state = torch.randn(2, 20, 4, generator=generator)

    def scan(part, initial_state):
        rows = (u[..., part], delta[..., part], A, B[..., part], C[..., part], D, z[..., part], D, True)
        return selective_scan(*rows, return_last_state=True, initial_state=initial_state, backend=backend)

    whole, last = scan(slice(None), state)
    first, middle = scan(slice(0, 13), state)
    steps = [
        selective_state_update(
            middle, u[..., t], delta[..., t], A, B[..., t], C[..., t], D, z[..., t], D, True, backend=backend
        )
        for t in range(13, length)
    ]
    torch.testing.assert_close(torch.cat([first, torch.stack(steps, -1)], -1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(middle, last, rtol=1e-5, atol=1e-5)


@pytest.mark.cpu_only
def test_places_far_below_zero_are_padding():
    case = make_case(2, 5, 3)
    before = case["state"].clone()
    out = selective_state_update(**case, state_batch_indices=torch.tensor([-(2**32), 1]))
    assert not out[0].any() and torch.equal(case["state"][0], before[0])


@pytest.mark.cpu_only
def test_double_precision_inputs_on_a_float32_state(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = {k: v if k == "state" else v.double() for k, v in make_case(2, 5, 3).items()}
    expected, state = as_one_position(case)
    found = selective_state_update(**case, dt_softplus=True)
    torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(case["state"], state.float())


@pytest.mark.cpu_only
def test_the_environment_decides_for_those_who_do_not_ask(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = make_case(2, 5, 3)
    expected, _ = as_one_position(case)
    for backend in ("cpu", "reference"):
        monkeypatch.setenv("MAMBARIUM_BACKEND", backend)
        found = selective_state_update(**{**case, "state": case["state"].clone()}, dt_softplus=True)
        torch.testing.assert_close(found.double().flatten(), expected.flatten(), rtol=1e-5, atol=1e-5)
    for backend, message in (("triton", "expected tensors on cuda"), ("gpu", "MAMBARIUM_BACKEND: .*'gpu'")):
        monkeypatch.setenv("MAMBARIUM_BACKEND", backend)
        with pytest.raises(ValueError, match=message):
            selective_state_update(**case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    case = make_case(2, 30, 16, dtype=dtype)
    out, state = as_one_position(case)
    found = selective_state_update(**case, dt_softplus=True)
    # Where float32 and float64 lie on two sides of the middle, they are rounded apart.
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, out[..., 0].to(dtype), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(case["state"], state.to(dtype), rtol=tolerance, atol=tolerance)


def test_states_at_given_places():
    case = make_case(4, 5, 3, entries=7)
    places = torch.tensor([6, -1, 0, 3], dtype=torch.int32)
    before = case["state"].clone()
    alone = {**case, "state": before[places.clamp(min=0)]}
    expected = selective_state_update(**alone, dt_softplus=True)
    expected[1] = 0
    found = selective_state_update(**case, dt_softplus=True, state_batch_indices=places)
    torch.testing.assert_close(found, expected)
    after = before.clone()
    after[places[[0, 2, 3]]] = alone["state"][[0, 2, 3]]
    torch.testing.assert_close(case["state"], after)


def test_any_strides_in_place():
    case = make_case(3, 5, 7, heads=2)
    expected = {k: v.clone() for k, v in case.items()}
    out = selective_state_update(**expected)
    wide = torch.zeros(3, 7, 5, 4)
    state = wide.permute(0, 3, 2, 1)[:, 1:3]
    state.copy_(case["state"])
    torch.testing.assert_close(selective_state_update(**{**case, "state": state}), out)
    torch.testing.assert_close(state, expected["state"])
    assert not wide[..., 0].any() and not wide[..., 3].any()


def test_nothing_is_recorded_for_gradients():
    case = make_case(2, 5, 3)
    out = selective_state_update(**{**case, "A": case["A"].requires_grad_()})
    assert not out.requires_grad and not case["state"].requires_grad


@pytest.mark.parametrize("backend", [None, "reference"])
def test_nan_stays_in_its_channel_and_batch_element(backend):
    case = make_case(3, 5, 4)
    case["x"][1, 2] = torch.nan
    out = selective_state_update(**case, backend=backend)
    expected = torch.zeros(3, 5, dtype=torch.bool)
    expected[1, 2] = True
    assert torch.equal(out.isnan(), expected)
    assert torch.equal(case["state"].isnan().any(-1), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(compiler):
    case = make_case(2, 5, 3, heads=2)
    compiled = torch.compile(selective_state_update, fullgraph=True, backend=compiler)
    other = {k: v.clone() for k, v in case.items()}
    torch.testing.assert_close(compiled(**case), selective_state_update(**other))
    torch.testing.assert_close(case["state"], other["state"])


def test_torch_sees_it():
    from mambarium.kernels.step.selective_state_update import selective_state_update_step

    case = make_case(2, 5, 3, heads=2)
    backend = "cpu" if case["x"].device.type == "cpu" else "triton"
    torch.library.opcheck(selective_state_update_step, (*case.values(), True, None, backend))
    meta = {k: v.to("meta") for k, v in case.items()}
    assert selective_state_update(**meta).shape == (2, 2, 5)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        selective_state_update(**case)
    assert counter.get_total_flops() == 2 * 2 * 5 * (9 * 3 + 2)


def test_export():
    class Step(torch.nn.Module):
        def forward(self, state, x):
            return selective_state_update(**{**case, "state": state, "x": x})

    case = make_case(2, 5, 3)
    exported = torch.export.export(Step(), (case["state"].clone(), case["x"])).module()
    states = [case["state"].clone() for _ in range(2)]
    assert torch.equal(exported(states[0], case["x"]), Step()(states[1], case["x"]))
    assert torch.equal(*states)


def test_autocast_keeps_float32():
    case = make_case(2, 5, 3)
    other = {k: v.clone() for k, v in case.items()}
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        found = selective_state_update(**case)
    assert torch.equal(found, selective_state_update(**other)) and torch.equal(case["state"], other["state"])


def test_no_uninitialised_memory_is_used(monkeypatch):
    case = make_case(2, 5, 3)
    other = {k: v.clone() for k, v in case.items()}
    expected = selective_state_update(**other)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
    assert torch.equal(selective_state_update(**case), expected) and torch.equal(case["state"], other["state"])


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": torch.zeros(2, 5)}, r"state: expected shape \(batch, dim, d_state\) or .*; found \(2, 5\)"),
        ({"state": torch.zeros(0, 5, 3)}, r"expected at least one sequence.*\(0, 1, 5, 3\)"),
        ({"x": torch.zeros(2, 4)}, r"x: .*= \(2, 1, 5\); found \(2, 1, 4\)"),
        ({"x": torch.zeros(3, 5)}, r"x: .*= \(2, 1, 5\); found \(3, 1, 5\)"),
        ({"dt": torch.zeros(2, 5, dtype=torch.float64)}, r"dt: expected dtype .*found torch.float64"),
        ({"A": torch.zeros(5, 3, dtype=torch.complex64)}, r"A: expected dtype .*found torch.complex64"),
        ({"A": torch.zeros(5, 4)}, r"A: .*= \(1, 5, 3\); found \(1, 5, 4\)"),
        ({"B": torch.zeros(2, 2, 3)}, r"B: .*groups that divide heads = 1; found \(2, 2, 3\)"),
        ({"C": torch.zeros(2, 4)}, r"C: .*= \(2, 1, 3\); found \(2, 1, 4\)"),
        ({"D": torch.zeros(4)}, r"D: .*= \(1, 5\); found \(1, 4\)"),
        ({"z": torch.zeros(2, 5, device="meta")}, r"z: expected device cpu; found meta"),
        ({"dt_bias": torch.zeros(5, dtype=torch.int32)}, r"dt_bias: expected dtype .*found torch.int32"),
        ({"state_batch_indices": torch.zeros(2)}, r"state_batch_indices: expected dtype torch.int32, torch.int64"),
        ({"state_batch_indices": torch.zeros(3, dtype=torch.int32)}, r"state_batch_indices: .*= \(2,\); found \(3,\)"),
        ({"state_batch_indices": torch.tensor([1, 2])}, r"state_batch_indices: expected places below 2; found 2"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        selective_state_update(**{**make_case(2, 5, 3), **change})

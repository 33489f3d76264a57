import pytest
import torch

from mambarium.kernels import selective_scan

PARAMETERS = ("A", "D", "delta_bias", "initial_state")
ALL = ("D", "z", "delta_bias", "initial_state", "reset")


def make_case(batch, length, dim, d_state, groups=1, optional=ALL, softplus=True, dtype=torch.float32):
    """Keyword arguments of selective_scan, channel-last in memory."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    case = {
        "u": normal(batch, length, dim).transpose(1, 2),
        "delta": normal(batch, length, dim).transpose(1, 2),
        "A": -4 * torch.rand(dim, d_state, generator=generator),
        "B": normal(batch, length, groups, d_state).permute(0, 2, 3, 1),
        "C": normal(batch, length, groups, d_state).permute(0, 2, 3, 1),
        "D": normal(dim),
        "z": normal(batch, length, dim).transpose(1, 2),
        "delta_bias": normal(dim),
        "initial_state": normal(batch, dim, d_state),
        "reset": torch.rand(batch, length, generator=generator) < 0.2,
    }
    if not softplus:
        case["delta"] = 0.5 * case["delta"].abs()
        case["delta_bias"] = 0.5 * case["delta_bias"].abs()
    case = {name: value for name, value in case.items() if name not in ALL or name in optional}
    for name in ("u", "delta", "B", "C", "z"):
        if name in case:
            case[name] = case[name].to(dtype)
    return {**case, "delta_softplus": softplus}


def results(case, backend):
    """Outputs, last state and all gradients; the reference computes in float64."""
    inputs = dict(case)
    for name, value in case.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.double() if backend == "reference" else value.clone()
            inputs[name] = value.requires_grad_()
    out, last_state = selective_scan(**inputs, return_last_state=True, backend=backend)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator).to(case["u"].dtype if x is out else torch.float32)).sum()
        for x in (out, last_state)
    )
    names = [name for name, value in inputs.items() if getattr(value, "requires_grad", False)]
    grads = torch.autograd.grad(loss, [inputs[name] for name in names])
    return {"out": out, "last_state": last_state, **dict(zip(names, grads, strict=True))}


def check(case, tolerance, parameter_tolerance=None):
    found, expected = results(case, "triton"), results(case, "reference")
    for name, value in found.items():
        limit = parameter_tolerance if parameter_tolerance and name in (*PARAMETERS, "last_state") else tolerance
        distance = (value.double() - expected[name]).norm()
        assert distance <= limit * expected[name].norm() + 1e-6, (name, distance)
        if name in case:
            assert value.dtype == case[name].dtype
            assert value.shape == case[name].shape


@pytest.mark.parametrize(
    ("batch", "length", "dim", "d_state", "groups"),
    [
        (2, 1, 1, 1, 1),
        (1, 2, 5, 3, 1),
        (1, 3, 33, 1, 1),
        (1, 64, 1, 1, 1),
        (2, 17, 6, 3, 2),
        (1, 17, 5, 16, 1),
    ],
)
def test_every_input_given(batch, length, dim, d_state, groups):
    check(make_case(batch, length, dim, d_state, groups), 5e-6)


@pytest.mark.parametrize(("length", "dim", "d_state"), [(63, 5, 1), (17, 1, 3), (2, 33, 16)])
def test_only_what_must_be_given(length, dim, d_state):
    check(make_case(1, length, dim, d_state, optional=(), softplus=False), 5e-6)


def test_constant_B_beside_groups_of_C():
    case = make_case(1, 5, 4, 3, groups=2)
    check({**case, "B": case["A"] + 1}, 5e-6)


def test_more_states_than_one_launch_keeps():
    check(make_case(1, 3, 2, 34), 5e-6)


def test_two_channels_per_lane(monkeypatch):
    from mambarium.kernels import triton_configuration

    monkeypatch.setattr(triton_configuration, "WARPS_PER_PROCESSOR", 0)
    check(make_case(1, 5, 37, 2, optional=("D", "delta_bias", "initial_state", "reset")), 5e-6)
    check(make_case(1, 3, 37, 2), 5e-6)


@pytest.fixture
def short_segments(monkeypatch):
    """A GPU so large that sequences are divided into segments of eight or twelve positions."""
    from mambarium.kernels import triton_configuration

    monkeypatch.setattr(triton_configuration, "WARPS_PER_PROCESSOR", 1000)
    monkeypatch.setattr(triton_configuration, "SEGMENT_MIN_POSITIONS", 8)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize(
    ("batch", "length", "dim", "d_state", "groups", "optional"),
    [(1, 61, 5, 2, 1, ALL), (2, 27, 6, 3, 2, ALL), (1, 24, 2, 34, 1, ALL), (2, 32, 3, 1, 1, ())],
)
def test_segments_side_by_side(batch, length, dim, d_state, groups, optional):
    check(make_case(batch, length, dim, d_state, groups, optional), 5e-6)


@pytest.mark.usefixtures("short_segments")
def test_segments_side_by_side_in_reverse():
    check({**make_case(1, 18, 2, 2, groups=2), "reverse": True}, 5e-6)


@pytest.mark.usefixtures("short_segments")
def test_segments_give_the_same_numbers_every_time():
    case = make_case(1, 18, 3, 1)
    once, again = results(case, "triton"), results(case, "triton")
    assert all(torch.equal(once[name], again[name]) for name in once)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy
def test_a_decay_beyond_float32_leaves_zero_states_zero():
    case = make_case(1, 24, 2, 1, optional=(), softplus=False)
    case["u"][..., :16] = 0
    case["A"] = torch.full((2, 1), 40.0)
    case["delta"] = torch.full((1, 2, 24), 0.5)
    case["delta"][..., 16:] = 0.01
    expected = selective_scan(**case, backend="reference")
    torch.testing.assert_close(selective_scan(**case, backend="triton"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("short_segments")
def test_a_segment_without_a_reset_between_segments_with_one():
    case = make_case(1, 24, 3, 2)
    case["reset"][:] = False
    case["reset"][0, [3, 16]] = True
    check(case, 5e-6)


@pytest.mark.usefixtures("short_segments")
def test_nan_passes_through_segments_up_to_the_next_reset():
    case = make_case(1, 40, 3, 2)
    case["u"][0, 2, 3] = torch.nan
    case["reset"][:] = False
    case["reset"][0, 27] = True
    out, last_state = selective_scan(**case, return_last_state=True, backend="triton")
    expected = torch.zeros_like(out, dtype=torch.bool)
    expected[0, 2, 3:27] = True
    assert torch.equal(out.isnan(), expected)
    assert not last_state.isnan().any()


def test_time_is_divided_only_where_a_gpu_would_idle():
    from mambarium.kernels.triton_configuration import BACKWARD_TILE, plan_segments

    processors = 132
    for batch, length, dim, groups in [(1, 2**20, 16, 1), (1, 10007, 1536, 1), (2, 3001, 96, 4)]:
        number, positions = plan_segments(batch, length, dim, groups, processors)
        assert number >= 3
        assert positions % BACKWARD_TILE == 0
        assert (number - 1) * positions < length <= number * positions
    assert plan_segments(1, 2**20, 16, 1, processors).number > 7.5 * processors
    assert plan_segments(8, 2048, 2048, 1, processors).number == 1  # full already
    assert plan_segments(1, 197, 384, 1, processors).number == 1  # too short


def test_more_than_2_to_the_31_elements():
    # Memory that is never touched takes no room.
    stride, length = 2**27 - 8, 18
    case = make_case(1, length, 1, 1, optional=(), dtype=torch.float16)
    memory = torch.empty(stride * (length - 1) + 1, dtype=torch.float16)
    apart = memory.as_strided((1, length, 1), (memory.numel(), stride, 1)).transpose(1, 2)
    apart.copy_(case["u"])
    outputs, grads = [], []
    delta = case["delta"].requires_grad_()
    for u in (case["u"], apart):
        u.requires_grad_()
        outputs.append(selective_scan(**{**case, "u": u}, backend="triton"))
        grads.append(torch.autograd.grad(outputs[-1].float().sum(), [u, delta]))
    assert torch.equal(*outputs)
    for together, parted in zip(*grads, strict=True):
        assert torch.equal(together, parted)


def test_memory_with_adjacent_positions():
    case = make_case(2, 6, 5, 4)
    rows = {name: case[name].contiguous() for name in ("u", "delta", "z", "B", "C")}
    check({**case, **rows}, 5e-6)


@pytest.mark.parametrize(("length", "optional"), [(1, ALL), (7, ALL), (6, ())])
def test_reverse(length, optional):
    check({**make_case(2, length, 5, 3, optional=optional), "reverse": True}, 5e-6)


def test_reverse_in_memory_with_adjacent_positions_and_many_states():
    case = make_case(1, 3, 4, 34, groups=2)
    rows = {name: case[name].contiguous() for name in ("u", "delta", "z", "B", "C")}
    check({**case, **rows, "reverse": True}, 5e-6)


@pytest.mark.parametrize("d_state", [3, 4])  # 4: loaded as whole 64-bit words
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, d_state):
    # The interpreter cuts bfloat16 off where a GPU rounds.
    tolerance = 2**-7 if dtype == torch.bfloat16 else 2e-3
    check(make_case(1, 7, 5, d_state, dtype=dtype), tolerance, parameter_tolerance=5e-6)


def test_steps_far_below_and_above_the_softplus_threshold():
    case = make_case(1, 8, 2, 1, optional=())
    values = torch.tensor([-30.0, -16.0, -9.0, -1.0, 0.0, 8.0, 19.9, 30.0])
    case["delta"] = values.expand(1, 2, 8).transpose(1, 2).contiguous().transpose(1, 2)
    case["A"] = -1e-2 * torch.ones(2, 1)
    check(case, 5e-6)


def test_nan_stays_in_its_channel_and_batch_element():
    case = make_case(2, 6, 3, 2)
    case["u"][1, 2, 3] = torch.nan
    case["reset"][:] = False
    case["reset"][1, 5] = True
    out, last_state = selective_scan(**case, return_last_state=True, backend="triton")
    expected = torch.zeros_like(out, dtype=torch.bool)
    expected[1, 2, 3:5] = True  # cleared before position 5
    assert torch.equal(out.isnan(), expected)
    assert not last_state.isnan().any()


@pytest.mark.usefixtures("filled_memory")
@pytest.mark.parametrize("reverse", [False, True])
def test_no_uninitialised_memory_is_used(reverse):
    check({**make_case(1, 5, 3, 2), "reverse": reverse}, 5e-6)


@pytest.mark.usefixtures("filled_memory", "short_segments")
def test_no_uninitialised_memory_is_used_with_segments():
    check(make_case(1, 26, 2, 1), 5e-6)


@pytest.mark.usefixtures("filled_memory")
def test_no_uninitialised_memory_is_used_with_many_states():
    check(make_case(1, 2, 2, 34), 5e-6)


def test_the_tuner_keeps_a_layout_that_computes_the_same(monkeypatch):
    from mambarium.kernels import triton_configuration
    from mambarium.kernels.scan.triton_tuning import tune_selective_scan

    monkeypatch.setattr(triton_configuration, "WARPS_PER_PROCESSOR", 0)
    best = tune_selective_scan(1, 3, 2, 1, dtype=torch.float32, device="cpu", repeats=1)
    try:
        assert {(1, 2, 3, 1, 1, 1): best} == triton_configuration.TUNED
        check(make_case(1, 2, 3, 1), 5e-6)
    finally:
        triton_configuration.TUNED.clear()


@pytest.mark.parametrize("save", [False, True])
def test_opcheck(save):
    from mambarium.kernels.scan.registration import selective_scan_forward

    case = make_case(1, 3, 2, 1)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    tensors = [case[name].detach().requires_grad_(save) for name in names]
    arguments = (*tensors, case["reset"], True, True, save, "triton")
    torch.library.opcheck(
        selective_scan_forward, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )

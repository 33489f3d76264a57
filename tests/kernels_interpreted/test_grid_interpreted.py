import pytest
import torch

from mambarium.kernels import CROSS, Route, grid_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def make_case(batch, dim, height, width, d_state, routes=CROSS, shared=True, optional=NAMES[5:], dtype=torch.float32):
    """Keyword arguments of grid_scan, channel-last in memory."""
    generator = torch.Generator().manual_seed(0)
    count = len(routes)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def grid(*channels):
        x = normal(batch, height, width, *channels).to(dtype)
        return x.permute(0, *range(3, x.dim()), 1, 2)

    case = {
        "u": grid(dim) if shared else grid(count, dim),
        "delta": grid(count, dim),
        "A": -4 * torch.rand(count, dim, d_state, generator=generator),
        "B": grid(count, d_state),
        "C": grid(count, d_state),
        "D": normal(count, dim),
        "delta_bias": normal(count, dim),
    }
    case = {name: value for name, value in case.items() if name not in NAMES[5:] or name in optional}
    return {**case, "delta_softplus": True, "routes": routes}


def results(case, backend):
    """Output and all gradients; the reference computes in float64."""
    inputs = dict(case)
    names = [name for name in NAMES if name in case]
    for name in names:
        value = case[name].double() if backend == "reference" else case[name].clone()
        inputs[name] = value.requires_grad_()
    out = grid_scan(**inputs, backend=backend)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(case["u"].dtype)
    grads = torch.autograd.grad((out * weights).sum(), [inputs[name] for name in names])
    return {"out": out, **dict(zip(names, grads, strict=True))}


def check(case, tolerance):
    found, expected = results(case, "triton"), results(case, "reference")
    for name, value in found.items():
        distance = (value.double() - expected[name]).norm()
        assert distance <= tolerance * expected[name].norm() + 1e-6, (name, distance)
        if name in case:
            assert value.dtype == case[name].dtype
            assert value.shape == case[name].shape
            assert value.stride() == torch.empty_like(case[name]).stride()


@pytest.fixture
def short_segments(monkeypatch):
    """A GPU so large that routes are divided into segments of eight or twelve steps."""
    from mambarium.kernels import triton_configuration

    monkeypatch.setattr(triton_configuration, "WARPS_PER_PROCESSOR", 1000)
    monkeypatch.setattr(triton_configuration, "SEGMENT_MIN_POSITIONS", 8)


@pytest.mark.parametrize(
    ("sizes", "flags"),
    [
        ((2, 5, 3, 4, 2), {}),
        ((1, 3, 1, 1, 1), {"routes": CROSS[:1]}),
        ((1, 34, 3, 3, 1), {"shared": False, "routes": (Route(2), Route(0, True, True)), "optional": ("D",)}),
        ((1, 2, 2, 3, 34), {"routes": CROSS[2:], "optional": ()}),
    ],
)
def test_agrees_with_float64_reference(sizes, flags):
    check(make_case(*sizes, **flags), 5e-6)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("shared", [True, False])
def test_segments_side_by_side(shared):
    check(make_case(1, 3, 5, 7, 2, CROSS[1:], shared), 5e-6)


def test_two_channels_per_lane(monkeypatch):
    from mambarium.kernels import triton_configuration

    monkeypatch.setattr(triton_configuration, "WARPS_PER_PROCESSOR", 0)
    check(make_case(1, 37, 2, 3, 2, CROSS[1:3]), 5e-6)


def test_half_precision():
    # The interpreter cuts bfloat16 off where a GPU rounds.
    check(make_case(1, 5, 2, 3, 4, CROSS[:2], dtype=torch.bfloat16), 2**-7)


def test_memory_with_adjacent_positions_and_slices():
    case = make_case(1, 4, 2, 3, 2, CROSS[:2])
    expected = results(case, "triton")
    moved = dict(case)
    for name in ("u", "delta", "B", "C"):
        moved[name] = case[name].contiguous()
    wide = torch.full((1, 6, 4, 5), torch.nan)
    moved["u"] = wide[:, 1:5, 1:3, 1:4].copy_(case["u"])
    found = results(moved, "triton")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_more_than_2_to_the_31_elements():
    # Memory that is never touched takes no room.
    case = make_case(1, 1, 1, 3, 1, CROSS[1:3], dtype=torch.float16)
    stride = 2**30 + 8
    memory = torch.empty(2 * stride + 1, dtype=torch.float16)
    apart = memory.as_strided((1, 1, 1, 3), (memory.numel(), 1, memory.numel(), stride))
    apart.copy_(case["u"])
    found = grid_scan(**{**case, "u": apart}, backend="triton")
    assert torch.equal(found, grid_scan(**case, backend="triton"))


def test_nan_stays_in_its_channel_and_batch_element():
    case = make_case(2, 3, 2, 3, 2)
    clean = grid_scan(**case, backend="triton")
    case["u"][1, 2, 1, 0] = torch.nan
    found = grid_scan(**case, backend="triton")
    assert found[1, 2, 1, 0].isnan()
    found[1, 2] = clean[1, 2]
    assert torch.equal(found, clean)


@pytest.mark.usefixtures("filled_memory", "short_segments")
def test_no_uninitialised_memory_is_used():
    check(make_case(1, 3, 3, 6, 1, CROSS[1:3]), 5e-6)


@pytest.mark.parametrize("save", [False, True])
def test_opcheck(save):
    from mambarium.kernels.grid.registration import encode_routes, grid_scan_forward

    case = make_case(1, 2, 1, 3, 1, CROSS[:2])
    tensors = [case[name].detach().requires_grad_(save) for name in NAMES]
    arguments = (*tensors, encode_routes(case["routes"]), True, save, "triton")
    torch.library.opcheck(
        grid_scan_forward, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )

"""What the selective scan computes, against its reference in float64."""

import itertools
import random

import pytest
import torch
from scan_cases import MANY_PARTS, NAMES, assert_close, make_case, results, to_double, to_dtype

from mambarium.kernels import selective_scan

pytestmark = pytest.mark.usefixtures("device")

LENGTHS = (1, 2, 3, 63, 64, 65, 197, 1023)  # the longest is scanned on a GPU in segments side by side
DIMS = (1, 5, 16, 17, 48)


@pytest.mark.thorough
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


@pytest.mark.thorough
@pytest.mark.parametrize("gate", [True, False])
def test_channels_that_fill_a_large_gpu(gate):
    """So many that a lane takes two on a GPU of 132 processors, see `scan_configuration`."""
    optional = [name for name in NAMES[5:] if gate or name != "z"]
    single = to_dtype(make_case(264, 9, 256, 16, optional=optional))
    assert_close(results(single), results(to_double(single), "reference"), 1e-6, 5e-6)


@pytest.mark.parametrize(("B_groups", "C_groups"), [(1, 3), (2, 3), (6, 1), (None, 2), (1, None), (None, None)])
def test_constant_and_unlike_groups(B_groups, C_groups):
    """None: constant. Every shape of B is served beside every shape of C."""
    case = make_case(2, 35, 6, 3)
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
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

import pytest
import torch

from mambarium.kernels import selective_state_update


def make_case(batch, heads, dim, d_state, groups=1, dtype=torch.float32, entries=None):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "state": normal(entries or batch, heads, dim, d_state),
        "x": normal(batch, heads, dim).to(dtype),
        "dt": normal(batch, heads, dim).to(dtype),
        "A": -4 * torch.rand(heads, dim, d_state, generator=generator),
        "B": normal(batch, groups, d_state).to(dtype),
        "C": normal(batch, groups, d_state).to(dtype),
        "D": normal(heads, dim),
        "z": normal(batch, heads, dim).to(dtype),
        "dt_bias": normal(heads, dim),
    }


def check(case, tolerance=2e-6, **arguments):
    other = {name: value.clone() for name, value in case.items()}
    found = selective_state_update(**case, **arguments, backend="triton")
    expected = selective_state_update(**other, **arguments, backend="reference")
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(case["state"], other["state"], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("batch", "heads", "dim", "d_state", "groups"),
    [(2, 1, 1, 1, 1), (1, 1, 37, 16, 1), (2, 4, 5, 3, 2), (1, 1, 2, 300, 1)],
)
@pytest.mark.parametrize("softplus", [True, False])
def test_agrees_with_the_reference(batch, heads, dim, d_state, groups, softplus):
    check(make_case(batch, heads, dim, d_state, groups), dt_softplus=softplus)


def test_only_what_must_be_given():
    case = make_case(2, 1, 5, 3)
    check({name: value for name, value in case.items() if name not in ("D", "z", "dt_bias")})


def test_states_at_given_places_and_padding():
    places = torch.tensor([4, -1, 0], dtype=torch.int32)
    check(make_case(3, 2, 5, 3, entries=6), dt_softplus=True, state_batch_indices=places)


def test_tied_parameters_and_any_strides():
    case = make_case(2, 2, 6, 4)
    case["A"] = case["A"][:, :1, :1].expand(2, 6, 4)
    case["dt_bias"] = case["dt_bias"][:, :1].expand(2, 6)
    case["state"] = case["state"].transpose(2, 3).contiguous().transpose(2, 3)
    check(case, dt_softplus=True)


def test_half_precision():
    # The interpreter cuts bfloat16 off where a GPU rounds.
    check(make_case(2, 1, 6, 4, dtype=torch.bfloat16), tolerance=2**-6, dt_softplus=True)


def test_nan_stays_in_its_channel():
    case = make_case(2, 1, 5, 3)
    case["x"][1, 0, 2] = torch.nan
    out = selective_state_update(**case, backend="triton")
    expected = torch.zeros(2, 1, 5, dtype=torch.bool)
    expected[1, 0, 2] = True
    assert torch.equal(out.isnan(), expected)


@pytest.mark.usefixtures("filled_memory")
def test_no_uninitialised_memory_is_used():
    check(make_case(2, 1, 5, 3), dt_softplus=True)

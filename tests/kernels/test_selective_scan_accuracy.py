"""Accuracy of the selective scan at all lengths, against float64: relative L2 distances, printed as they are measured.

python -m pytest -m slow -s tests/kernels/test_selective_scan_accuracy.py
"""

import math

import pytest
import torch
import torch.nn.functional as F

from mambarium.kernels import selective_scan

pytestmark = pytest.mark.usefixtures("device")
LENGTHS = (1, 2, 3, 31, 32, 33, 196, 197, 1023, 4096, 16_385, 65_537)
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias", "initial_state")


def make_inputs(batch, length, dim, d_state, dtype):
    """Steps and decays as a Mamba has them at its start; float32 parameters."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = {name: normal(batch, length, dim).transpose(1, 2).to(dtype) for name in ("u", "delta")}
    inputs["A"] = -torch.arange(1, d_state + 1) * (0.1 * normal(dim, d_state)).exp()
    inputs |= {name: normal(batch, length, d_state).transpose(1, 2).to(dtype) for name in ("B", "C")}
    inputs |= {"D": normal(dim), "delta_bias": normal(dim) - 4, "initial_state": normal(batch, dim, d_state)}
    return {name: inputs[name].requires_grad_() for name in NAMES}


def scan(inputs, backend=None):
    return selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)


def exact_scan(inputs):
    """The reference in float64, in as many pieces side by side as a piece has positions, which takes a loop over time
    seconds where it would take minutes.

    The pieces are scanned twice: from zeros, for the states that they pass on, and from the states that they get.
    """
    length, names = inputs["u"].shape[-1], ("u", "delta", "B", "C")
    piece = math.isqrt(length)
    count = length // piece
    cut = count * piece
    pieces = {name: inputs[name][0, :, :cut].unflatten(-1, (count, piece)).transpose(0, 1) for name in names}
    _, added = scan({**inputs, **pieces, "initial_state": None}, "reference")  # (count, dim, d_state)
    steps = F.softplus(pieces["delta"] + inputs["delta_bias"][:, None]).sum(-1)  # (count, dim)
    decays = torch.exp(steps[..., None] * inputs["A"])
    states = [inputs["initial_state"][0]]
    for index in range(count):
        states.append(decays[index] * states[-1] + added[index])
    out, _ = scan({**inputs, **pieces, "initial_state": torch.stack(states[:-1])}, "reference")
    out, last_state = out.transpose(0, 1).flatten(1)[None], states[-1][None]
    if cut < length:
        rest = {name: inputs[name][..., cut:] for name in names}
        tail, last_state = scan({**inputs, **rest, "initial_state": last_state}, "reference")
        out = torch.cat([out, tail], -1)
    return out, last_state


def results(inputs, out, last_state):
    """Outputs and gradients by name, for incoming gradients that bfloat16 holds exactly."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator).bfloat16().to(x.dtype) for x in (out, last_state)]
    grads = torch.autograd.grad((out, last_state), list(inputs.values()), weights)
    return {"out": out, "last state": last_state} | dict(zip(inputs, grads, strict=True))


@torch.no_grad()
def distances(found, expected):
    """Relative L2 distances by name. delta_bias has the sum of delta's gradients, which may cancel: it is taken
    relative to them."""
    sizes = {name: value.double().norm() for name, value in expected.items()}
    sizes["delta_bias"] = max(sizes["delta_bias"], sizes["delta"])
    return {
        name: float((found[name].double() - value.double()).norm() / sizes[name]) for name, value in expected.items()
    }


def check(title, found, expected, outputs, gradients):
    errors = distances(found, expected)
    print(f"\n{title}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    for name, error in errors.items():
        assert error <= (outputs if name in ("out", "last state") else gradients), (name, error)


def to_double(inputs):
    return {name: x.detach().double().requires_grad_() for name, x in inputs.items()}


@pytest.mark.parametrize("length", [1, 3, 36, 40])
def test_pieces_side_by_side_are_one_pass(length):
    doubles = to_double(make_inputs(1, length, 3, 2, torch.float32))
    expected = results(doubles, *scan(doubles, "reference"))
    assert max(distances(results(doubles, *exact_scan(doubles)), expected).values()) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("dtype", "outputs", "gradients"), [(torch.float32, 1e-6, 5e-6), (torch.bfloat16, 4e-3, 1e-2)])
def test_lengths(dtype, outputs, gradients, length):
    inputs = make_inputs(1, length, 20, 16 if length < 10_000 else 4, dtype)
    doubles = to_double(inputs)
    expected = results(doubles, *exact_scan(doubles))
    check(f"{dtype}, length {length}", results(inputs, *scan(inputs)), expected, outputs, gradients)


@pytest.mark.slow
def test_a_million_positions_in_chunks_against_one_pass():
    length, chunk = 2**20, 65_521  # chunks that end within the kernels' tiles
    inputs = make_inputs(1, length, 16, 16, torch.float32)
    expected = results(inputs, *scan(inputs))
    state, outputs = inputs["initial_state"], []
    for start in range(0, length, chunk):
        part = {name: inputs[name][..., start : start + chunk] for name in ("u", "delta", "B", "C")}
        out, state = scan({**inputs, **part, "initial_state": state})
        outputs.append(out)
    found = results(inputs, torch.cat(outputs, -1), state)
    check(f"length {length} in chunks of {chunk}", found, expected, 1e-6, 5e-6)

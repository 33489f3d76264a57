"""S4D: its three views are one function, from its published initial matrices, within documents."""

import math

import pytest
import torch
from torch import Tensor

from mambarium.backbones import S4D
from mambarium.backbones.layers.diagonal_ssm import (
    BLOCK_LENGTH,
    DiagonalSSM,
    complex_expm1,
    hippo_legs,
    initial_matrices,
)
from mambarium.backbones.layers.sequences import document_boundaries
from mambarium.errors import InputError
from mambarium.tasks import LanguageModeling
from mambarium.tasks.optimization import parameter_groups

MATRICES = ["legs", "lin", "inv", "real"]
CHANNELS = 3


def ssm(state_matrix: str = "lin", discretization: str = "zoh", d_state: int = 64) -> DiagonalSSM:
    torch.manual_seed(0)
    return DiagonalSSM(CHANNELS, d_state, state_matrix, discretization).double()


def inputs(length: int, batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, length, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def start(model: DiagonalSSM, batch_size: int = 2) -> Tensor:
    return model.initial_state(batch_size, torch.device("cpu"), torch.float64)


def one_by_one(model: DiagonalSSM, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(u.shape[1]):
        y, state = model(u[:, t : t + 1], state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("state_matrix", MATRICES)
@torch.no_grad()
def test_convolution_and_recurrence_are_equal(state_matrix: str, discretization: str) -> None:
    model, length = ssm(state_matrix, discretization), 2 * BLOCK_LENGTH + 8
    u = inputs(length)
    spectrum = torch.fft.rfft(u, 2 * length, dim=1) * torch.fft.rfft(model.kernel(length).T, 2 * length, dim=0)
    expected = torch.fft.irfft(spectrum, 2 * length, dim=1)[:, :length] + model.D * u
    recurrent, state = one_by_one(model, u, start(model))
    scale = expected.abs().max().item()
    torch.testing.assert_close(recurrent, expected, rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(model(u)[0], expected, rtol=0, atol=1e-11 * scale)

    for cut in (1, 5, BLOCK_LENGTH, BLOCK_LENGTH + 1, length - 1):
        first, middle = model(u[:, :cut], start(model))
        second, last = model(u[:, cut:], middle)
        torch.testing.assert_close(torch.cat([first, second], dim=1), expected, rtol=0, atol=1e-11 * scale)
        torch.testing.assert_close(last, state, rtol=0, atol=1e-11 * state.abs().max().item())


@pytest.mark.parametrize("state_matrix", MATRICES)
@torch.no_grad()
def test_the_differential_equation_gives_the_same(state_matrix: str) -> None:
    model, length, substeps = ssm(state_matrix, d_state=8), 8, 40
    A, B, C, dt = model.continuous()
    u = inputs(length)
    step = dt[:, None] / substeps
    x = torch.zeros(2, CHANNELS, 4, dtype=torch.complex128)
    outputs = []
    for t in range(length):
        force = B * u[:, t, :, None]
        for _ in range(substeps):  # Runge-Kutta of order 4, with the input held
            k1 = A * x + force
            k2 = A * (x + step / 2 * k1) + force
            k3 = A * (x + step / 2 * k2) + force
            k4 = A * (x + step * k3) + force
            x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        outputs.append(2 * (C * x).sum(-1).real + model.D * u[:, t])
    torch.testing.assert_close(model(u)[0], torch.stack(outputs, dim=1), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_finer_time_step_brings_both_discretizations_together() -> None:
    difference = []
    for finer in (1.0, 0.1):
        kernels = []
        for discretization in ("zoh", "bilinear"):
            model = ssm("lin", discretization, d_state=8)
            model.log_dt += math.log(finer)
            kernels.append(model.kernel(50) / finer)
        difference.append((kernels[0] - kernels[1]).abs().max().item())
    # Both sum the same response; per time step the bilinear kernel differs by half a step's increase.
    assert difference[1] < 0.2 * difference[0]


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("state_matrix", MATRICES)
@torch.no_grad()
def test_float32_stays_near_float64(state_matrix: str, discretization: str) -> None:
    model = ssm(state_matrix, discretization)
    u = inputs(200)
    expected = model(u)[0]
    found = model.float()(u.float())[0].double()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_gradients_are_those_of_the_recurrence() -> None:
    model = ssm("inv", d_state=6)
    u = inputs(BLOCK_LENGTH + 9).requires_grad_()
    state = torch.randn_like(start(model)).requires_grad_()
    leaves = [u, state, *model.parameters()]

    def gradients(y: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y.pow(2).sum() + last.pow(2).sum(), leaves)

    for one, other in zip(gradients(*model(u, state)), gradients(*one_by_one(model, u, state)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * other.abs().max().item())


@pytest.mark.parametrize("continued", [True, False])
@torch.no_grad()
def test_documents_of_many_blocks_are_separate(continued: bool) -> None:
    model = ssm(d_state=6)
    lengths = [[1, 64, 65, 7], [130, 2, 1, 4]]
    assert sum(lengths[0]) == sum(lengths[1]) == 137
    ids = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])
    u = inputs(137)
    before = torch.randn_like(start(model))
    previous = torch.tensor([0, 0]) if continued else torch.tensor([5, 5])
    y, state = model(u, before, document_boundaries(ids, previous))
    for row, parts in enumerate(lengths):
        begin = 0
        for document, length in enumerate(parts):
            own = before[row : row + 1] if document == 0 and continued else start(model, 1)
            expected, last = one_by_one(model, u[row : row + 1, begin : begin + length], own)
            torch.testing.assert_close(y[row : row + 1, begin : begin + length], expected)
            begin += length
        torch.testing.assert_close(state[row : row + 1], last)


@pytest.mark.parametrize(
    ("state_matrix", "real", "imaginary"),
    [
        ("lin", [-0.5] * 4, [0.0, math.pi, 2 * math.pi, 3 * math.pi]),
        ("inv", [-0.5] * 4, [1283.4, 414.2, 240.4, 165.9]),
        ("legs", [-0.5] * 4, [1303.3, 433.0, 258.2, 182.6]),
        ("real", [-1.0, -2.0, -3.0, -4.0], [0.0] * 4),
    ],
)
def test_initial_matrices_are_the_published_ones(state_matrix: str, real: list[float], imaginary: list[float]) -> None:
    A, B = initial_matrices(state_matrix, 64)
    if state_matrix == "legs":
        A = A[A.imag.argsort(descending=True)]
    assert A.shape == B.shape == (32,)
    torch.testing.assert_close(A.real[:4], torch.tensor(real, dtype=torch.float64))
    torch.testing.assert_close(A.imag[:4], torch.tensor(imaginary, dtype=torch.float64), rtol=0, atol=0.05)


def test_hippo_legs_is_a_normal_matrix_less_one_of_rank_one() -> None:
    A, B = hippo_legs(16)
    n = torch.arange(16, dtype=torch.float64)
    assert A[5, 3].item() == pytest.approx(-math.sqrt(11 * 7)) and A[5, 5] == -6 and A[3, 5] == 0
    P = (n + 0.5).sqrt()
    skew = A + torch.outer(P, P) + 0.5 * torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(skew, -skew.T)
    diagonal, B_diagonal = initial_matrices("legs", 16)
    eigenvalues = torch.linalg.eigvals(A + torch.outer(P, P))
    torch.testing.assert_close(eigenvalues.imag.sort().values[8:], diagonal.imag)
    # A change to an orthonormal basis keeps B's size; the conjugate half has the other half of it.
    assert 2 * B_diagonal.square().sum().item() == pytest.approx(B.square().sum().item())


@torch.no_grad()
def test_initial_parameters() -> None:
    torch.manual_seed(0)
    model = DiagonalSSM(4000, 4)
    assert 1e-3 <= model.log_dt.exp().min() < 1.1e-3 and 0.09 < model.log_dt.exp().max() <= 0.1
    assert model.C.square().sum(-1).mean().item() == pytest.approx(1.0, abs=0.05)
    assert model.D.std().item() == pytest.approx(1.0, abs=0.05)


def test_expm1_is_exact_near_zero() -> None:
    z = torch.complex(torch.tensor([-1e-6, -0.3]), torch.tensor([3e-6, 2.0]))
    torch.testing.assert_close(
        complex_expm1(z).to(torch.complex128), torch.exp(z.to(torch.complex128)) - 1, rtol=1e-6, atol=0
    )


def test_time_steps_and_matrices_a_and_b_have_no_weight_decay() -> None:
    model = LanguageModeling(S4D(6, depth=1), vocab_size=5)
    decayed = {id(parameter) for parameter in parameter_groups(model)[0]["params"]}
    names = {name.rsplit("layers.0.")[-1] for name, value in model.named_parameters() if id(value) in decayed}
    assert names == {"ssm.C", "out_proj.weight"}


def test_states_and_arguments_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="not one of this S4D of 6 layers of width 6"):
        S4D(6)(torch.zeros(2, 1, 6), S4D(6, d_state=8).initial_state(2))
    for arguments, message in (
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"d_state": 0}, "d_state must be at least 2, got 0"),
        ({"d_state": 5}, "d_state must be even"),
        ({"state_matrix": "hippo"}, "state_matrix must be one of legs, lin, inv, real, got 'hippo'"),
        ({"discretization": "euler"}, "discretization must be one of zoh, bilinear"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ):
        with pytest.raises(InputError, match=message):
            S4D(**arguments)

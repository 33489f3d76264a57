"""The diagonal linear state-space model of S4D: one convolution per channel, which is also a recurrence."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.layers.arguments import check_at_least, check_choice
from mambarium.backbones.layers.sequences import Boundaries
from mambarium.errors import InputError

StateMatrix = Literal["legs", "lin", "inv", "real"]
Discretization = Literal["zoh", "bilinear"]

DELTA_MIN, DELTA_MAX = 1e-3, 1e-1
BLOCK_LENGTH = 64


class DiagonalSSM(nn.Module):
    """Channels with a fixed diagonal state-space model each, and a skip.

    "On the Parameterization and Initialization of Diagonal State Space Models" (Gu et al. 2022, arXiv 2206.11893); A, B
    and C are complex, and stand for themselves and their conjugates:

        x'(t) = A x(t) + B u(t),  y(t) = 2 Re(C x(t)) + D u(t)                          (continuous)
        x_l = A_bar x_{l-1} + B_bar u_l,  y_l = 2 Re(C x_l) + D u_l                     (recurrent)
        y = K * u + D u,  K_l = 2 Re(C A_bar^l B_bar)                                   (convolutional)

    A single position takes the recurrence. A longer chunk is cut into blocks: within a block the convolution, as a
    matrix product, and from block to block the recurrence; no position sees the future, not even by rounding, as it
    would through a Fourier transform.

    Args:
        num_channels: Number of channels, each with its own A, B, C, D and time step.
        d_state: Size of a channel's state, an even number: half of it are complex numbers.
        state_matrix: How A and B start: "legs" (the diagonal of HiPPO-LegS), "lin" (-1/2 + i pi n), "inv" (its
            approximation by inverses) or "real" (-(n + 1)).
        discretization: "zoh", exact for inputs constant over a time step, or "bilinear".
        num_filters: How many outputs a channel has, each with its own C and D on the channel's one state; None: one,
            without an axis of its own.
    """

    no_weight_decay = ("log_A_real", "A_imag", "B", "D")

    def __init__(
        self,
        num_channels: int,
        d_state: int = 64,
        state_matrix: StateMatrix = "lin",
        discretization: Discretization = "zoh",
        num_filters: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least("d_state", d_state, 2)
        if d_state % 2:
            raise InputError(f"d_state must be even, for complex numbers and their conjugates, got {d_state}")
        check_choice("state_matrix", state_matrix, get_args(StateMatrix))
        check_choice("discretization", discretization, get_args(Discretization))
        if num_filters is not None:
            check_at_least("num_filters", num_filters, 1)
        self.num_channels, self.d_state, self.num_filters = num_channels, d_state, num_filters
        self.state_matrix, self.discretization = state_matrix, discretization
        half = d_state // 2
        outputs = (num_channels,) if num_filters is None else (num_channels, num_filters)
        self.log_dt = nn.Parameter(torch.empty(num_channels))
        self.log_A_real = nn.Parameter(torch.empty(num_channels, half))
        self.A_imag = nn.Parameter(torch.empty(num_channels, half))
        self.B = nn.Parameter(torch.empty(num_channels, half, 2))  # real and imaginary parts
        self.C = nn.Parameter(torch.empty(*outputs, half, 2))
        self.D = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Time steps log-uniform in [0.001, 0.1], A and B as chosen, C and D standard normal."""
        A, B = initial_matrices(self.state_matrix, self.d_state)
        self.log_dt.uniform_(math.log(DELTA_MIN), math.log(DELTA_MAX))
        self.log_A_real.copy_((-A.real).log())
        self.A_imag.copy_(A.imag)
        self.B.copy_(torch.stack([B, torch.zeros_like(B)], dim=-1))
        self.C.normal_(std=math.sqrt(0.5))
        self.D.normal_()

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a, B, C and the time step, in at least float32.

        A and B are (num_channels, d_state / 2) complex, C too, or (num_channels, num_filters, d_state / 2); the time
        step is (num_channels,).
        """
        exact = torch.promote_types(self.log_dt.dtype, torch.float32)
        A = torch.complex(-self.log_A_real.to(exact).exp(), self.A_imag.to(exact))
        B, C = (torch.view_as_complex(value.to(exact).contiguous()) for value in (self.B, self.C))
        return A, B, C, self.log_dt.to(exact).exp()

    def discretized(self) -> tuple[Tensor, Tensor, Tensor]:
        """log(A_bar), B_bar and C, complex, with the shapes of A, B and C."""
        A, B, C, dt = self.continuous()
        z = dt[:, None] * A
        if self.discretization == "zoh":
            return z, complex_expm1(z) / A * B, C
        return torch.log(1 + z / 2) - torch.log(1 - z / 2), dt[:, None] * B / (1 - z / 2), C

    def kernel(self, length: int) -> Tensor:
        """Return the kernel K (num_channels, length), or (num_channels, num_filters, length), without the skip."""
        log_A_bar, B_bar, C = self.discretized()
        kernel = convolution_kernel(_powers(log_A_bar, length), B_bar, self._with_filters(C, 1))
        return kernel.squeeze(1) if self.num_filters is None else kernel

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Zeros (batch, num_channels, d_state / 2, 2), real and imaginary parts, in at least float32."""
        exact = torch.promote_types(dtype, torch.float32)
        return torch.zeros(batch_size, self.num_channels, self.d_state // 2, 2, device=device, dtype=exact)

    def forward(
        self, u: Tensor, state: Tensor | None = None, boundaries: Boundaries | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run over a chunk u (batch, length, num_channels); a state is as `initial_state` has it, None starts afresh.

        Returns (batch, length, num_channels) or (batch, length, num_channels, num_filters), and the new state, None if
        there was none.
        """
        with torch.autocast(u.device.type, enabled=False):
            log_A_bar, B_bar, C = self.discretized()
            C = self._with_filters(C, 1)
            exact = u.to(B_bar.real.dtype)  # (batch, length, num_channels)
            before = self._complex(state, u.shape[0], B_bar)
            if u.shape[1] == 1:
                y, after = recur(exact, before, log_A_bar, B_bar, C, boundaries)
            else:
                y, after = convolve_blocks(cut_into_blocks(exact, boundaries), before, log_A_bar, B_bar, C)
            y = self._with_skip(y, exact).to(u.dtype)
        return y, None if state is None else torch.view_as_real(after).to(state.dtype)

    def at_positions(
        self, u: Tensor, positions: Tensor, state: Tensor | None = None, boundaries: Boundaries | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` where only outputs at `positions` (batch, count) are needed, which spares computing the others."""
        with torch.autocast(u.device.type, enabled=False):
            log_A_bar, B_bar, C = self.discretized()
            exact = u.to(B_bar.real.dtype)
            blocks = cut_into_blocks(exact, boundaries)
            before = self._complex(state, u.shape[0], B_bar)
            between = states_between_blocks(blocks, before, log_A_bar, B_bar)
            places = torch.cat([blocks.place.gather(1, positions), blocks.place[:, -1:]], dim=1)
            states = states_at(blocks, places, between, log_A_bar)  # (batch, count + 1, num_channels, half)
            y = 2 * torch.einsum("hfn,bkhn->bkhf", self._with_filters(C, 1), states[:, :-1]).real
            y = self._with_skip(y, exact.gather(1, positions.unsqueeze(-1).expand(-1, -1, u.shape[2]))).to(u.dtype)
        return y, None if state is None else torch.view_as_real(states[:, -1]).to(state.dtype)

    def _with_filters(self, x: Tensor, dim: int) -> Tensor:
        """Return a tensor with an axis for the filters, of size 1 if there is none yet."""
        return x.unsqueeze(dim) if self.num_filters is None else x

    def _with_skip(self, y: Tensor, u: Tensor) -> Tensor:
        """Return outputs (batch, length, num_channels, filters) with D u added, without the axis of a sole filter."""
        y = y + self._with_filters(self.D.to(u.dtype), 1) * u.unsqueeze(-1)
        return y.squeeze(-1) if self.num_filters is None else y

    def _complex(self, state: Tensor | None, batch_size: int, like: Tensor) -> Tensor:
        """Return a state (batch, num_channels, half) complex, zeros if there is none."""
        if state is None:
            return like.new_zeros(batch_size, *like.shape)
        return torch.view_as_complex(state.to(like.real.dtype).contiguous())

    def extra_repr(self) -> str:
        """Return the sizes and the choices, for `print`."""
        return (
            f"{self.num_channels}, d_state={self.d_state}, {self.state_matrix}, {self.discretization}, "
            f"num_filters={self.num_filters}"
        )


def initial_matrices(state_matrix: StateMatrix, d_state: int) -> tuple[Tensor, Tensor]:
    """Return the initial A (complex) and B (real), (d_state / 2,) in float64 on the CPU; section 4 of the paper.

    "legs" takes the eigenvalues of the normal part of HiPPO-LegS, A + P P^T with P_n = sqrt(n + 1/2), and B in their
    basis; the phase of an eigenvector is arbitrary, so B keeps its size only, as C's phase is random.
    """
    n = torch.arange(d_state // 2, device="cpu", dtype=torch.float64)
    if state_matrix == "legs":
        A, B = hippo_legs(d_state)
        P = (torch.arange(d_state, device="cpu", dtype=torch.float64) + 0.5).sqrt()
        skew = A + torch.outer(P, P) + 0.5 * torch.eye(d_state, device="cpu", dtype=torch.float64)
        frequencies, basis = torch.linalg.eigh(-1j * skew)  # ascending, in pairs of opposite sign
        positive = slice(d_state // 2, None)
        return torch.complex(torch.full_like(n, -0.5), frequencies[positive]), (basis.mH @ B.to(basis))[positive].abs()
    imaginary = {
        "lin": math.pi * n,
        "inv": d_state / math.pi * (d_state / (2 * n + 1) - 1),
        "real": torch.zeros_like(n),
    }[state_matrix]
    real = -(n + 1) if state_matrix == "real" else torch.full_like(n, -0.5)
    return torch.complex(real, imaginary), torch.ones_like(n)


def hippo_legs(d_state: int) -> tuple[Tensor, Tensor]:
    """HiPPO-LegS: A (d_state, d_state) and B (d_state,) in float64 ("HiPPO", Gu et al. 2020, theorem 2)."""
    n = torch.arange(d_state, device="cpu", dtype=torch.float64)
    B = (2 * n + 1).sqrt()
    return -torch.outer(B, B).tril(-1) - torch.diag(n + 1), B


def complex_expm1(z: Tensor) -> Tensor:
    """exp(z) - 1, exact near 0."""
    a, b = z.real, z.imag
    return torch.complex(torch.expm1(a) * b.cos() - 2 * (b / 2).sin().square(), a.exp() * b.sin())


def convolution_kernel(powers: Tensor, B_bar: Tensor, C: Tensor) -> Tensor:
    """K_l = 2 Re(C A_bar^l B_bar), (num_channels, filters, length)."""
    return 2 * torch.einsum("hfn,hnl->hfl", C * B_bar.unsqueeze(1), powers).real


def recur(
    u: Tensor, state: Tensor, log_A_bar: Tensor, B_bar: Tensor, C: Tensor, boundaries: Boundaries | None
) -> tuple[Tensor, Tensor]:
    """One position u (batch, 1, num_channels): its outputs without skip for each filter, and the state after it."""
    if boundaries is not None:
        state = state.masked_fill(boundaries.reset[:, :1, None], 0.0)
    state = log_A_bar.exp() * state + B_bar * u[:, 0, :, None]  # (batch, num_channels, half)
    return 2 * (C * state.unsqueeze(2)).sum(dim=-1).real.unsqueeze(1), state


class Blocks(NamedTuple):
    """A chunk cut into blocks of one document each, all blocks of a document full but its last.

    Attributes:
        inputs: (batch, blocks, block_length, num_channels), zero where a block is not full.
        place: (batch, length) place of each position among its sequence's blocks, laid end to end.
        begins: (batch, blocks) bool, whether a block begins a document that is not the one before the chunk; None if
            none does.
    """

    inputs: Tensor
    place: Tensor
    begins: Tensor | None


def cut_into_blocks(u: Tensor, boundaries: Boundaries | None) -> Blocks:
    """Cut a chunk u (batch, length, num_channels)."""
    batch_size, length, num_channels = u.shape
    block_length = min(BLOCK_LENGTH, length)
    positions = torch.arange(length, device=u.device).expand(batch_size, length)
    if boundaries is None:
        blocks = math.ceil(length / block_length)
        padded = F.pad(u, (0, 0, 0, blocks * block_length - length))
        return Blocks(padded.unflatten(1, (blocks, block_length)), positions, None)
    begin = torch.where(boundaries.reset, positions, 0).cummax(dim=1).values  # of each position's document
    offset = (positions - begin) % block_length
    block = (offset == 0).cumsum(dim=1) - 1  # (batch, length)
    place = block * block_length + offset
    blocks = int(block[:, -1].max()) + 1
    inputs = u.new_zeros(batch_size, blocks * block_length, num_channels)
    inputs = inputs.scatter(1, place.unsqueeze(-1).expand_as(u), u)
    begins = torch.zeros(batch_size, blocks, dtype=torch.bool, device=u.device)
    begins = begins.scatter_reduce(1, block, boundaries.reset, reduce="amax")
    return Blocks(inputs.unflatten(1, (blocks, block_length)), place, begins)


class BetweenBlocks(NamedTuple):
    """The states between the blocks of a chunk.

    Attributes:
        at_beginning: (num_channels, batch, blocks, half) complex, the state at each block's beginning.
        to_state: (num_channels, block_length, 2 half), what an input adds to the state at the end of its block.
    """

    at_beginning: Tensor
    to_state: Tensor


def states_between_blocks(blocks: Blocks, state: Tensor, log_A_bar: Tensor, B_bar: Tensor) -> BetweenBlocks:
    """Return the recurrence from block to block, from the state (batch, num_channels, half) before the chunk."""
    batch_size, num_blocks, block_length, _ = blocks.inputs.shape
    powers = _powers(log_A_bar, block_length + 1)  # (num_channels, half, block_length + 1)
    to_state = _real_rows((powers[..., :-1].flip(-1) * B_bar.unsqueeze(-1)).mT)  # (num_channels, block_length, 2 half)
    u = blocks.inputs.permute(3, 0, 1, 2).flatten(1, 2)  # (num_channels, batch * blocks, block_length)
    added = torch.bmm(u, to_state).unflatten(1, (batch_size, num_blocks))
    added = torch.view_as_complex(added.unflatten(-1, (-1, 2)))  # (num_channels, batch, blocks, half)
    running = state.transpose(0, 1)  # (num_channels, batch, half)
    beginnings = []
    for i in range(num_blocks):
        if blocks.begins is not None:
            running = running.masked_fill(blocks.begins[:, i, None], 0.0)
        beginnings.append(running)
        running = powers[:, None, :, -1] * running + added[:, :, i]
    return BetweenBlocks(torch.stack(beginnings, dim=2), to_state)


def states_at(blocks: Blocks, places: Tensor, between: BetweenBlocks, log_A_bar: Tensor) -> Tensor:
    """Return the states (batch, count, num_channels, half) complex after the positions at `places` (batch, count).

    The inputs of a place's block up to it are shifted to the block's end, so that their weights are `to_state`'s.
    """
    batch_size, _, block_length, num_channels = blocks.inputs.shape
    block, filled = places // block_length, places % block_length + 1
    rows = torch.arange(batch_size, device=places.device)[:, None]
    shift = torch.arange(block_length, device=places.device) - (block_length - filled).unsqueeze(-1)
    order = shift.clamp(min=0).unsqueeze(-1).expand(-1, -1, -1, num_channels)  # (batch, count, block_length, channels)
    ending = blocks.inputs[rows, block].gather(2, order).masked_fill((shift < 0).unsqueeze(-1), 0.0)
    added = torch.bmm(ending.permute(3, 0, 1, 2).flatten(1, 2), between.to_state)
    added = torch.view_as_complex(added.unflatten(-1, (-1, 2))).unflatten(1, places.shape)
    decay = torch.exp(log_A_bar[:, None, None] * filled[None, :, :, None])  # (num_channels, batch, count, half)
    return (decay * between.at_beginning[:, rows, block] + added).permute(1, 2, 0, 3)


def convolve_blocks(
    blocks: Blocks, state: Tensor, log_A_bar: Tensor, B_bar: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Convolve within blocks, and go from block to block by recurrence.

    Takes the state (batch, num_channels, half) before the chunk, log(A_bar) and B_bar (num_channels, half) and C
    (num_channels, filters, half), all complex. Returns outputs without skip (batch, length, num_channels, filters), and
    the state after the chunk.
    """
    batch_size, num_blocks, block_length, num_channels = blocks.inputs.shape
    filters = C.shape[1]
    powers = _powers(log_A_bar, block_length + 1)  # (num_channels, half, block_length + 1)
    u = blocks.inputs.permute(3, 0, 1, 2).flatten(1, 2)  # (num_channels, batch * blocks, block_length)

    # Within a block: position t gets kernel[t - j] of position j.
    kernel = convolution_kernel(powers[..., :-1], B_bar, C)
    toeplitz = F.pad(kernel, (block_length - 1, 0)).unfold(-1, block_length, 1).flip(-1)  # (channels, filters, t, j)
    y = torch.bmm(u, toeplitz.flatten(1, 2).mT)

    # What the state at the block's beginning gives to its positions: 2 Re(C A_bar^(t + 1) state).
    between = states_between_blocks(blocks, state, log_A_bar, B_bar)
    weights = 2 * (C.unsqueeze(2) * powers[..., 1:].mT.unsqueeze(1)).conj()  # (num_channels, filters, t, half)
    to_output = _real_rows(weights).flatten(1, 2).mT  # (num_channels, 2 half, filters * block_length)
    y = y + torch.bmm(_real_rows(between.at_beginning.flatten(1, 2)), to_output)

    y = y.unflatten(1, (batch_size, num_blocks)).unflatten(-1, (filters, block_length))
    y = y.permute(1, 2, 4, 0, 3).flatten(1, 2)  # (batch, places, num_channels, filters)
    y = y.gather(1, blocks.place[..., None, None].expand(-1, -1, num_channels, filters))
    return y, states_at(blocks, blocks.place[:, -1:], between, log_A_bar)[:, 0]


def _powers(log_A_bar: Tensor, count: int) -> Tensor:
    """A_bar^0 to A_bar^(count - 1), (num_channels, half, count)."""
    return torch.exp(log_A_bar.unsqueeze(-1) * torch.arange(count, device=log_A_bar.device))


def _real_rows(x: Tensor) -> Tensor:
    """(..., half) complex to (..., 2 half), real and imaginary parts in turn."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2)

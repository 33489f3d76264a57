"""What is measured: operations at sizes, and the least work that each needs."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Operation = Literal["selective_scan", "grid_scan", "selective_state_update", "causal_conv1d"]
Direction = Literal["forward", "forward+backward"]

CONV_WIDTH = 4
ROUTES = 4


class Work(NamedTuple):
    """The least that an operation asks of a machine: memory traffic, exponentials and float32 operations."""

    bytes: float
    exponentials: float
    operations: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]  # adds figures, where a tuple would append
        """Both, one after the other."""
        return Work(*(x + y for x, y in zip(self, other, strict=True)))

    def __sub__(self, other: "Work") -> "Work":
        """Return what remains."""
        return Work(*(x - y for x, y in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Case:
    """One size of one operation.

    The selective scan is that of a Mamba block: B and C of one group, D, delta_bias and softplus, no gate; so is the
    state update, one step of it. The grid scan has ROUTES routes over a square grid and as many of all parameters but
    the input. The convolution has CONV_WIDTH taps, a bias and silu.
    """

    operation: Operation
    batch: int
    dim: int
    length: int
    """Of the grid scan the number of positions, of the state update 1."""
    d_state: int
    """0 for the convolution."""
    dtype: torch.dtype
    """Of the sequences; parameters are float32."""

    @property
    def series(self) -> tuple[str, int, int, str]:
        """What cases that differ in length only have in common."""
        return self.operation, self.batch, self.d_state, dtype_name(self.dtype)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """What is measured of it: the state update has no gradients."""
        return ("forward",) if self.operation == "selective_state_update" else ("forward", "forward+backward")

    @property
    def side(self) -> int:
        """Height and width of the grid."""
        return math.isqrt(self.length)

    def work(self, direction: Direction) -> Work:
        """Return the least work of a forward, or of a forward and its backward.

        Every input is read once and every output written once; states stay on the chip. Scan, per element: two
        exponentials and 8 operations for softplus; per state: one exponential and 4 operations (delta * A, delta * u
        * B, the recurrence, the product with C). Its backward repeats the exponentials, with one more for softplus,
        and needs 13 operations per state and 20 per element. Grid scan: that for every route, but the input is read and
        the output written once. State update: a scan of one position that reads and writes the state. Convolution, per
        element: a multiplication and addition per tap, silu as 1 exponential and 4 operations, twice in the backward.
        """
        elements = self.batch * self.length * self.dim
        size = self.dtype.itemsize
        if self.operation == "causal_conv1d":
            forward = Work(2 * size * elements, elements, (CONV_WIDTH + 4) * elements)
            backward = Work(3 * size * elements, elements, 2 * (CONV_WIDTH + 4) * elements)
        else:
            routes = ROUTES if self.operation == "grid_scan" else 1
            matrices = 2 * size * self.batch * self.length * self.d_state * routes
            state = 8 * elements * self.d_state if self.operation == "selective_state_update" else 0
            n = self.d_state
            forward = Work(
                (2 + routes) * size * elements + matrices + state,
                routes * (n + 2) * elements,
                routes * (4 * n + 8) * elements,
            )
            backward = Work(
                (3 + 2 * routes) * size * elements + 2 * matrices,
                routes * (n + 3) * elements,
                routes * (13 * n + 20) * elements,
            )
        return forward if direction == "forward" else forward + backward


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype without torch's prefix."""
    return str(dtype).removeprefix("torch.")


def full_cases(device: torch.device) -> list[Case]:
    """Return the cases of a whole run, by length within each series."""
    if device.type == "cuda":
        dtypes = [torch.bfloat16, torch.float32]
        sizes, lengths = (8, 2048), [196, 197, 784, 2000, 2048, 3136, 4096, 8192]
        grids, batches = (64, 192), [1, 64, 256]
        # Of a batch that fills the GPU, the size whose instructions tests/kernels/test_triton_compile.py counts.
        full = [Case("selective_scan", 64, 2048, 2048, 16, torch.bfloat16)]
    else:
        dtypes = [torch.float32, torch.bfloat16]
        sizes, lengths = (4, 384), [64, 197, 512, 1024, 2048]
        grids, batches = (1, 192), [1, 16, 64]
        full = []
    return full + _cases(sizes, lengths, grids, [7, 14, 28, 56], batches, dtypes)


def quick_cases(device: torch.device) -> list[Case]:
    """Return a few small cases, which take seconds."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return _cases((1, 32), [17, 64], (1, 32), [4, 8], [2], [dtype])


def _cases(
    sizes: tuple[int, int],
    lengths: list[int],
    grids: tuple[int, int],
    sides: list[int],
    batches: list[int],
    dtypes: list[torch.dtype],
) -> list[Case]:
    cases = []
    for dtype in dtypes:
        for d_state in (16, 1):
            cases += [Case("selective_scan", *sizes, length, d_state, dtype) for length in lengths]
        for d_state in (16, 1):
            cases += [Case("grid_scan", *grids, side * side, d_state, dtype) for side in sides]
        cases += [Case("selective_state_update", batch, sizes[1], 1, 16, dtype) for batch in batches]
        cases += [Case("causal_conv1d", *sizes, length, 0, dtype) for length in lengths]
    return cases

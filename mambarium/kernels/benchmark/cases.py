"""What is measured: operations at sizes, and the least work that each needs."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Operation = Literal["selective_scan", "causal_conv1d"]
Direction = Literal["forward", "forward+backward"]

CONV_WIDTH = 4


class Work(NamedTuple):
    """The least that an operation asks of a machine: memory traffic, exponentials and float32 operations."""

    bytes: float
    exponentials: float
    operations: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]  # adds figures, where a tuple would append
        """Both, one after the other."""
        return Work(*(x + y for x, y in zip(self, other, strict=True)))

    def __sub__(self, other: "Work") -> "Work":
        """What remains."""
        return Work(*(x - y for x, y in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Case:
    """One size of one operation.

    The selective scan is that of a Mamba block: B and C of one group, D, delta_bias and softplus, no gate; the
    convolution has CONV_WIDTH taps, a bias and silu.
    """

    operation: Operation
    batch: int
    dim: int
    length: int
    d_state: int
    """0 for the convolution."""
    dtype: torch.dtype
    """Of the sequences; parameters are float32."""

    @property
    def series(self) -> tuple[str, int, str]:
        """What cases that differ in length only have in common."""
        return self.operation, self.d_state, dtype_name(self.dtype)

    def work(self, direction: Direction) -> Work:
        """The least work of a forward, or of a forward and its backward.

        Every input is read once and every output written once; states stay on the chip. Scan, per element: two
        exponentials and 8 operations for softplus; per state: one exponential and 4 operations (delta * A, delta * u
        * B, the recurrence, the product with C). Its backward repeats the exponentials, with one more for softplus,
        and needs 13 operations per state and 20 per element. Convolution, per element: a multiplication and addition
        per tap, silu as 1 exponential and 4 operations, all twice in the backward.
        """
        elements = self.batch * self.length * self.dim
        size = self.dtype.itemsize
        if self.operation == "causal_conv1d":
            forward = Work(2 * size * elements, elements, (CONV_WIDTH + 4) * elements)
            backward = Work(3 * size * elements, elements, 2 * (CONV_WIDTH + 4) * elements)
        else:
            matrices = 2 * size * self.batch * self.length * self.d_state
            n = self.d_state
            forward = Work(3 * size * elements + matrices, (n + 2) * elements, (4 * n + 8) * elements)
            backward = Work(5 * size * elements + 2 * matrices, (n + 3) * elements, (13 * n + 20) * elements)
        return forward if direction == "forward" else forward + backward


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype without torch's prefix."""
    return str(dtype).removeprefix("torch.")


def full_cases(device: torch.device) -> list[Case]:
    """The cases of a whole run, by length within each series."""
    if device.type == "cuda":
        dtypes = [torch.bfloat16, torch.float32]
        sizes, lengths = (8, 2048), [196, 197, 784, 2000, 2048, 3136, 4096, 8192]
    else:
        dtypes = [torch.float32, torch.bfloat16]
        sizes, lengths = (4, 384), [64, 197, 512, 1024, 2048]
    return _grid(sizes, lengths, [16, 1], dtypes)


def quick_cases(device: torch.device) -> list[Case]:
    """A few small cases, which take seconds."""
    return _grid((1, 32), [17, 64], [16, 1], [torch.bfloat16 if device.type == "cuda" else torch.float32])


def _grid(sizes: tuple[int, int], lengths: list[int], d_states: list[int], dtypes: list[torch.dtype]) -> list[Case]:
    batch, dim = sizes
    cases = []
    for dtype in dtypes:
        for d_state in d_states:
            cases += [Case("selective_scan", batch, dim, length, d_state, dtype) for length in lengths]
        cases += [Case("causal_conv1d", batch, dim, length, 0, dtype) for length in lengths]
    return cases

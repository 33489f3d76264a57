"""What every fast backend of the grid scan offers."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from mambarium.kernels.grid.routes import Route


class GridBackend(Protocol):
    """Functions of `grid/cpu.py` and `grid/triton_backend.py`.

    Tensors are channel-last views with any strides: u (batch, height, width, 1 or routes, dim), with 1 shared by all
    routes; delta (batch, height, width, routes, dim); B, C (batch, height, width, routes, d_state), each float32,
    bfloat16 or float16, not necessarily the same; A (routes, dim, d_state), D, delta_bias (routes, dim) float32.
    `grid/cpu.py` imports without numba, which only its kernels need; `grid/triton_backend.py` imports triton.
    """

    def checkpoint_shape(self, batch: int, length: int, routes: int, dim: int, d_state: int) -> tuple[int, ...]:
        """Shape of the checkpoints of a grid of `length` positions (sizes may be symbolic)."""

    def scan_forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        routes: Sequence[Route],
        delta_softplus: bool,
        save_for_backward: bool,
    ) -> tuple[Tensor, Tensor]:
        """Returns out and checkpoints.

        out: (batch, height, width, dim), u's dtype, strides of `torch.empty_like(u[:, :, :, 0])`. checkpoints:
        float32, contiguous, of `checkpoint_shape`, or of shape (0,) without save_for_backward.
        """

    def scan_backward(
        self,
        grad_out: Tensor,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        routes: Sequence[Route],
        delta_softplus: bool,
        checkpoints: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """Returns the gradients of u, delta, A, B, C, D, delta_bias, None for absent inputs.

        Each has its input's dtype and shape, and the strides of `torch.empty_like(input)`. grad_out may be expanded
        (strides of zero) and of any float dtype.
        """

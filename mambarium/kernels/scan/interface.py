"""What every fast backend of the selective scan offers."""

from typing import Protocol

from torch import Tensor


class ScanBackend(Protocol):
    """Functions of `scan/cpu.py` and `scan/triton_backend.py`.

    Tensors are channel-last views with any strides: u, delta, z (batch, length, dim); B, C
    (batch, length, groups, d_state), each float32, bfloat16 or float16, not necessarily the same; A
    (dim, d_state), D, delta_bias (dim,) and initial_state (batch, dim, d_state) float32; reset (batch,
    length) bool. Channel c belongs to group c // (dim // groups). With `reverse` positions are visited from the
    last to the first, and first and last state and checkpoints follow the visits. `scan/cpu.py` imports without
    numba, which only its kernels need; `scan/triton_backend.py` imports triton.
    """

    def checkpoint_shape(self, batch: int, length: int, dim: int, d_state: int, groups: int) -> tuple[int, ...]:
        """Shape of the checkpoints that `scan_forward` returns with save_for_backward (sizes may be
        symbolic)."""

    def scan_forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor | None,
        reset: Tensor | None,
        delta_softplus: bool,
        reverse: bool,
        save_for_backward: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns out, last_state and checkpoints.

        out: (batch, length, dim), u's dtype, strides of `torch.empty_like(u)`. last_state: (batch, dim,
        d_state) float32, contiguous. checkpoints: float32, contiguous, of `checkpoint_shape`, or of shape
        (0,) without save_for_backward.
        """

    def scan_backward(
        self,
        grad_out: Tensor,
        grad_last_state: Tensor,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor | None,
        reset: Tensor | None,
        delta_softplus: bool,
        reverse: bool,
        checkpoints: Tensor,
    ) -> tuple[
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor | None,
        Tensor | None,
        Tensor | None,
        Tensor | None,
    ]:
        """Returns the gradients of u, delta, A, B, C, D, z, delta_bias, initial_state, None for absent
        inputs.

        Each has its input's dtype and shape, and the strides of `torch.empty_like(input)`. grad_out may be
        expanded (strides of zero) and of any float dtype; grad_last_state is float32.
        """

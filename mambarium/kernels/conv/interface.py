"""What every fast backend of the causal convolution offers."""

from typing import Protocol

from torch import Tensor


class ConvBackend(Protocol):
    """Functions of `conv/cpu.py` and `conv/triton_backend.py`.

    Tensors are channel-last views with any strides: x (batch, length, dim) float32, bfloat16 or float16;
    weight (dim, width) and bias (dim,) float32, width 2 to 4; initial_states (batch, width - 1, dim) of x's
    dtype, oldest first; seq_idx (batch, length) int32. silu: whether the activation is applied. reverse: whether
    positions are visited from the last to the first.
    """

    def conv_forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        seq_idx: Tensor | None,
        initial_states: Tensor | None,
        silu: bool,
        reverse: bool,
    ) -> Tensor:
        """Returns out: (batch, length, dim), x's dtype, strides of `torch.empty_like(x)`."""

    def conv_backward(
        self,
        grad_out: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        seq_idx: Tensor | None,
        initial_states: Tensor | None,
        silu: bool,
        reverse: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Returns the gradients of x, weight, bias and initial_states, None for absent inputs.

        Each has its input's dtype and shape, and the strides of `torch.empty_like(input)`. grad_out may be
        expanded (strides of zero). Final states are plain slices of the input, taken and differentiated by
        the public function; the backend has nothing to do with them.
        """

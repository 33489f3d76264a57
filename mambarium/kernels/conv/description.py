"""What a causal convolution is: its inputs and options, as every backend is handed them."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Conv(NamedTuple):
    """The inputs of a causal convolution: channel-last views with any strides.

    Attributes:
        x: (batch, length, dim) float32, bfloat16 or float16.
        weight: (dim, width) float32, width 2 to 4.
        bias: (dim,) float32, or None.
        seq_idx: (batch, length) int32, or None.
        initial_states: (batch, width - 1, dim) of x's dtype, oldest first, or None.
        silu: whether the activation is applied.
        reverse: whether positions are visited from the last to the first.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    seq_idx: Tensor | None
    initial_states: Tensor | None
    silu: bool
    reverse: bool


class ConvBackend(Protocol):
    """What the module of a fast backend offers.

    Final states are plain slices of the input, taken and differentiated by the public function; the backend has nothing
    to do with them.
    """

    def conv_forward(self, conv: Conv, out: Tensor) -> None:
        """Fill out: (batch, length, dim) of x's dtype and any strides."""

    def conv_backward(self, conv: Conv, grad_out: Tensor, gradients: Conv) -> None:
        """Fill the gradients of x, weight, bias and initial_states: memory in the inputs' place, of any strides.

        grad_out may be expanded (strides of zero).
        """

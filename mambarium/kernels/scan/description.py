"""What a scan is: its inputs, the order of its visits and its options, as every backend is handed them."""

import functools
from typing import NamedTuple, Protocol

from torch import Tensor


class Order:
    """In what order each group visits the positions.

    Args:
        positions: (groups, length) int32, contiguous, on the device of the inputs: the position that each group visits
            at each step.
    """

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    @functools.cached_property
    def gather(self) -> Tensor:
        """The positions as (1, length, groups, 1) int64, for torch."""
        return self.positions.long().t()[None, :, :, None].contiguous()

    @functools.cached_property
    def scatter(self) -> Tensor:
        """The step at which each group visits each position, (1, length, groups, 1) int64."""
        return self.positions.argsort(dim=1).t()[None, :, :, None].contiguous()


class Scan(NamedTuple):
    """The inputs of a scan: channel-last views with any strides.

    Sequences and matrices are float32, bfloat16 or float16, not necessarily the same. Channel c of dim belongs to group
    c // (dim // groups).

    Attributes:
        u: (batch, length, dim); with an order (batch, length, groups, dim // groups), where 1 in place of groups says
            that all groups share it.
        delta: as u, not shared.
        A: (dim, d_state) float32.
        B: (batch, length, groups, d_state).
        C: as B.
        D: (dim,) float32, or None.
        z: as delta, or None.
        delta_bias: (dim,) float32, or None.
        initial_state: (batch, dim, d_state) float32, or None.
        reset: (batch, length) bool, or None.
        delta_softplus: whether the step is softplus of delta + delta_bias.
        reverse: whether positions are visited from the last to the first; first and last state and checkpoints follow
            the visits.
        order: of each group's visits, with neither z nor reset nor reverse beside it; the groups' outputs are added up.
            None: positions are visited one after another, and each group has channels of its own in the output.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    initial_state: Tensor | None = None
    reset: Tensor | None = None
    delta_softplus: bool = False
    reverse: bool = False
    order: Order | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """batch, length, dim, groups, d_state."""
        batch, length, groups, d_state = self.B.shape
        return batch, length, self.A.shape[0], groups, d_state


class Gradients(NamedTuple):
    """Memory for the gradients of a scan's inputs: of their shapes and dtypes, any strides; None where there is none.

    Of a grouped u that all groups share the sum, else of each group its own.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None


class ScanBackend(Protocol):
    """What the module of a fast backend offers."""

    def checkpoint_shape(self, batch: int, length: int, dim: int, groups: int, d_state: int) -> tuple[int, ...]:
        """Return the shape of the checkpoints (sizes may be symbolic)."""

    def scan_forward(self, scan: Scan, out: Tensor, save_for_backward: bool) -> tuple[Tensor, Tensor]:
        """Fill out, and return last_state and checkpoints, memory of their own.

        out: (batch, length, dim), with an order (batch, length, dim // groups), of u's dtype and any strides.
        last_state: (batch, dim, d_state) float32, contiguous. checkpoints: float32, contiguous, of `checkpoint_shape`,
        or of shape (0,) without save_for_backward.
        """

    def scan_backward(
        self,
        scan: Scan,
        grad_out: Tensor,
        grad_last_state: Tensor | None,
        checkpoints: Tensor,
        gradients: Gradients,
    ) -> None:
        """Fill the gradients.

        grad_out, of out's shape, may be expanded (strides of zero) and of any float dtype; grad_last_state is float32,
        None for zeros.
        """

"""One step of the selective scan as an operation of torch.library: fake and FLOP formula."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import load_backend
from mambarium.kernels.step.reference import selective_state_update_reference


@torch.library.custom_op("mambarium::selective_state_update", mutates_args=("state",))
def selective_state_update_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
    backend: str,
) -> Tensor:
    """The step, with the shapes of `selective_state_update_reference`, which is the CPU's code too."""
    function = selective_state_update_reference
    if backend == "triton":
        function = load_backend("step", backend).selective_state_update
    return function(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices)


@selective_state_update_step.register_fake
def _(state: Tensor, x: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape)


@register_flop_formula(torch.ops.mambarium.selective_state_update)
def _(state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, *args: Any, **kwargs: Any) -> int:
    batch, heads, dim = x
    return batch * heads * dim * (9 * A[2] + (D is not None) + (z is not None))

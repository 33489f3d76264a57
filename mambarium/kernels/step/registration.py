"""One step of the selective scan as an operation of torch.library: fake and FLOP formula."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mambarium.kernels.backend import has_kernel, load_backend
from mambarium.kernels.step.reference import selective_state_update_reference


def _step(*arguments: Any) -> Tensor:
    """The step, with the arguments of `selective_state_update_reference`, which serves where there is no kernel."""
    *inputs, backend = arguments
    function: Any = selective_state_update_reference
    if has_kernel("step", backend):
        function = load_backend("step", backend).selective_state_update
    out: Tensor = function(*inputs)
    return out


selective_state_update_step = torch.library.custom_op(
    "mambarium::selective_state_update",
    _step,
    mutates_args=("state",),
    schema="(Tensor(a0!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, bool dt_softplus, Tensor? state_batch_indices, str backend) -> Tensor",
)


@selective_state_update_step.register_fake
def _(state: Tensor, x: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape)


@register_flop_formula(torch.ops.mambarium.selective_state_update)
def _(state: Any, x: Any, dt: Any, A: Any, B: Any, C: Any, D: Any, z: Any, *args: Any, **kwargs: Any) -> int:
    batch, heads, dim = x
    return batch * heads * dim * (9 * A[2] + (D is not None) + (z is not None))

"""The functions of `mamba_ssm.ops.triton.selective_state_update`."""

from torch import Tensor

from mambarium.kernels import selective_state_update

__all__ = ["selective_state_update", "selective_state_update_ref"]


def selective_state_update_ref(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Return the plain reference of `selective_state_update`."""
    return selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, backend="reference")

"""One step of the selective scan on a GPU: the launch of the Triton kernel."""

from typing import Any

import torch
import triton
from torch import Tensor

from mambarium.kernels.step.triton_kernels import state_update_kernel
from mambarium.kernels.triton_configuration import STEP_BLOCK, STEP_WARPS
from mambarium.kernels.triton_launch import Launch, strides

OPTIONS = {"num_warps": STEP_WARPS, "num_stages": 1}


def selective_state_update(*arguments: Any) -> Tensor:
    """Update and read the states, given the arguments of `plan`."""
    launch = plan(*arguments)
    out: Tensor = launch.arguments["out"]
    launch.run(out.device)
    return out


def plan(
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
) -> Launch:
    """Return the launch, with the output that it fills among its arguments.

    Shapes are those of `selective_state_update_reference`.
    """
    batch, heads, dim = x.shape
    d_state = state.shape[3]
    block_state = triton.next_power_of_2(d_state)
    block_dim = max(1, min(STEP_BLOCK // block_state, triton.next_power_of_2(dim)))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    arguments = {
        "state": state,
        "x": x,
        "dt": dt,
        "A": A,
        "B": B,
        "C": C,
        "D": D,
        "z": z,
        "dt_bias": dt_bias,
        "state_batch_indices": None if state_batch_indices is None else state_batch_indices.contiguous(),
        "out": out,
        "state_strides": state.stride(),
        "x_strides": x.stride(),
        "dt_strides": dt.stride(),
        "A_strides": A.stride(),
        "B_strides": B.stride(),
        "C_strides": C.stride(),
        "D_strides": strides(D),
        "z_strides": strides(z),
        "dt_bias_strides": strides(dt_bias),
        "out_strides": out.stride(),
        "heads": heads,
        "groups": B.shape[1],
        "dim": dim,
        "d_state": d_state,
        "entries": state.shape[0],
        "DT_SOFTPLUS": dt_softplus,
        "BLOCK_DIM": block_dim,
        "BLOCK_STATE": block_state,
    }
    return Launch(state_update_kernel, batch * heads * -(-dim // block_dim), arguments, OPTIONS)

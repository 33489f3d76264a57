"""The causal convolution on a GPU: allocations, launches and second-stage sums around the Triton kernels."""

from typing import Any

import torch
from torch import Tensor

from mambarium.kernels.conv.triton_kernels import conv_backward_kernel, conv_forward_kernel
from mambarium.kernels.triton_configuration import CONV_BLOCK_DIM, CONV_BLOCK_TIME, CONV_WARPS
from mambarium.kernels.triton_launch import Launch, contiguous, strides

OPTIONS = {"num_warps": CONV_WARPS, "num_stages": 1}


def conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> Tensor:
    """Convolves; see `mambarium.kernels.conv.interface.ConvBackend`."""
    launch = plan_forward(x, weight, bias, seq_idx, initial_states, silu, reverse)
    launch.run(x.device)
    out: Tensor = launch.arguments["out"]
    return out


def conv_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of all inputs; see `mambarium.kernels.conv.interface.ConvBackend`."""
    launch = plan_backward(grad_out, x, weight, bias, seq_idx, initial_states, silu, reverse)
    launch.run(x.device)
    parts = launch.arguments["weight_parts"].sum(dim=0)  # (width + 1, dim)
    return (
        launch.arguments["grad_x"],
        torch.empty_like(weight).copy_(parts[:-1].t()),
        None if bias is None else torch.empty_like(bias).copy_(parts[-1]),
        launch.arguments["grad_initial_states"],
    )


def plan_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool = False,
) -> Launch:
    """The forward's launch, with the output that it fills among its arguments."""
    out = torch.empty_like(x)
    arguments = common_arguments(x, weight, bias, seq_idx, initial_states, silu)
    arguments |= {"out": out, "out_strides": out.stride()}
    batch, length, dim = x.shape
    programs = batch * time_blocks(length) * dim_blocks(dim)
    backwards = ("x", "seq_idx", "out") if reverse else ()
    return Launch(conv_forward_kernel, programs, arguments, OPTIONS, backwards)


def plan_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    reverse: bool = False,
) -> Launch:
    """The backward's launch, with the tensors that it fills among its arguments."""
    batch, length, dim = x.shape
    width = weight.shape[1]
    positions = length if initial_states is None else length + width - 1
    rows = batch * time_blocks(positions)
    grad_x = torch.empty_like(x)
    grad_initial_states = None if initial_states is None else torch.empty_like(initial_states)
    arguments = common_arguments(x, weight, bias, seq_idx, initial_states, silu)
    arguments |= {
        "grad_out": grad_out,
        "grad_x": grad_x,
        "grad_initial_states": grad_initial_states,
        "weight_parts": torch.empty(rows, width + 1, dim, dtype=torch.float32, device=x.device),
        "grad_out_strides": grad_out.stride(),
        "grad_x_strides": grad_x.stride(),
        "grad_initial_strides": strides(grad_initial_states),
    }
    backwards = ("grad_out", "x", "seq_idx", "grad_x") if reverse else ()
    return Launch(conv_backward_kernel, rows * dim_blocks(dim), arguments, OPTIONS, backwards)


def common_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
) -> dict[str, Any]:
    return {
        "x": x,
        "weight": weight.contiguous(),
        "bias": contiguous(bias),
        "seq_idx": seq_idx,
        "initial_states": initial_states,
        "x_strides": x.stride(),
        "seq_idx_strides": strides(seq_idx),
        "initial_strides": strides(initial_states),
        "length": x.shape[1],
        "dim": x.shape[2],
        "WIDTH": weight.shape[1],
        "SILU": silu,
        "BLOCK_TIME": CONV_BLOCK_TIME,
        "BLOCK_DIM": CONV_BLOCK_DIM,
    }


def time_blocks(positions: int) -> int:
    return -(-positions // CONV_BLOCK_TIME)


def dim_blocks(dim: int) -> int:
    return -(-dim // CONV_BLOCK_DIM)

"""The causal convolution on a GPU: allocations, launches and second-stage sums around the Triton kernels."""

from typing import Any

import torch
from torch import Tensor

from mambarium.kernels.conv.description import Conv
from mambarium.kernels.conv.triton_kernels import conv_backward_kernel, conv_forward_kernel
from mambarium.kernels.triton_configuration import CONV_BLOCK_DIM, CONV_BLOCK_TIME, CONV_WARPS
from mambarium.kernels.triton_launch import Launch, contiguous, strides

OPTIONS = {"num_warps": CONV_WARPS, "num_stages": 1}


def conv_forward(conv: Conv, out: Tensor) -> None:
    """Convolve, see `ConvBackend`."""
    plan_forward(conv, out).run(conv.x.device)


def conv_backward(conv: Conv, grad_out: Tensor, gradients: Conv) -> None:
    """Write the gradients of all inputs, see `ConvBackend`."""
    launch = plan_backward(conv, grad_out, gradients)
    launch.run(conv.x.device)
    parts = launch.arguments["weight_parts"].sum(dim=0)  # (width + 1, dim)
    gradients.weight.copy_(parts[:-1].t())
    if gradients.bias is not None:
        gradients.bias.copy_(parts[-1])


def plan_forward(conv: Conv, out: Tensor) -> Launch:
    """Return the forward's launch, which fills out."""
    batch, length, dim = conv.x.shape
    arguments = {**_common_arguments(conv), "out": out, "out_strides": out.stride()}
    programs = batch * -(-length // CONV_BLOCK_TIME) * -(-dim // CONV_BLOCK_DIM)
    backwards = ("x", "seq_idx", "out") if conv.reverse else ()
    return Launch(conv_forward_kernel, programs, arguments, OPTIONS, backwards)


def plan_backward(conv: Conv, grad_out: Tensor, gradients: Conv) -> Launch:
    """Return the backward's launch, which fills the gradients of the sequences, and of the weights parts of sums."""
    batch, length, dim = conv.x.shape
    width = conv.weight.shape[1]
    positions = length if conv.initial_states is None else length + width - 1
    rows = batch * -(-positions // CONV_BLOCK_TIME)
    arguments = {
        **_common_arguments(conv),
        "grad_out": grad_out,
        "grad_x": gradients.x,
        "grad_initial_states": gradients.initial_states,
        "weight_parts": torch.empty(rows, width + 1, dim, dtype=torch.float32, device=conv.x.device),
        "grad_out_strides": grad_out.stride(),
        "grad_x_strides": gradients.x.stride(),
        "grad_initial_strides": strides(gradients.initial_states),
    }
    backwards = ("grad_out", "x", "seq_idx", "grad_x") if conv.reverse else ()
    return Launch(conv_backward_kernel, rows * -(-dim // CONV_BLOCK_DIM), arguments, OPTIONS, backwards)


def _common_arguments(conv: Conv) -> dict[str, Any]:
    return {
        "x": conv.x,
        "weight": conv.weight.contiguous(),
        "bias": contiguous(conv.bias),
        "seq_idx": conv.seq_idx,
        "initial_states": conv.initial_states,
        "x_strides": conv.x.stride(),
        "seq_idx_strides": strides(conv.seq_idx),
        "initial_strides": strides(conv.initial_states),
        "length": conv.x.shape[1],
        "dim": conv.x.shape[2],
        "WIDTH": conv.weight.shape[1],
        "SILU": conv.silu,
        "BLOCK_TIME": CONV_BLOCK_TIME,
        "BLOCK_DIM": CONV_BLOCK_DIM,
    }

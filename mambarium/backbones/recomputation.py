"""Less memory for activations, for the time of a second forward pass."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mambarium.backbones.contract import Backbone
from mambarium.errors import InputError
from mambarium.private_names.torch import BatchNorms


def recompute_activations(backbone: Backbone) -> None:
    """Let a backbone keep only what goes into its repeated blocks, and compute the rest anew in the backward pass.

    Results, dropout included, and parameter names stay the same. Blocks with batch norm (MambaVision's convolutional
    ones) are left alone: a second pass would count each batch twice in their running statistics. The idea is that of
    Chen et al. 2016 (arXiv 1604.06174).

    Args:
        backbone: Changed in place.

    Raises:
        InputError: If it names no blocks.
    """
    blocks = backbone.repeated_blocks()
    if not blocks:
        raise InputError(f"{type(backbone).__name__} names no blocks to compute again; give it repeated_blocks")
    for block in blocks:
        if not any(isinstance(module, BatchNorms) for module in block.modules()):
            block.forward = partial(_forward, block)


def _forward(block: nn.Module, *arguments: Any, **named: Any) -> Any:
    forward = type(block).forward
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, block, *arguments, use_reentrant=False, **named)
    return forward(block, *arguments, **named)

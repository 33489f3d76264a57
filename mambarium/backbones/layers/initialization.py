"""Initialisation of a model that was built without memory.

Every module here follows one rule: `reset_parameters` draws the parameters that the module owns itself, or
draws again those of its children, and the constructor ends with it. Children are built in the order in which
they are registered, so walking the tree from the leaves up draws the same random numbers in the same order as
building it.

A module that holds a network of another library, whose parts do not follow the rule, has `reset_all_parameters`
instead: it draws its children's parameters too, as its constructor did.
"""

import math

import torch
from torch import nn


def initialize(module: nn.Module) -> None:
    """Initialise all parameters of a module as its constructor does, children before parents.

    For models built under `torch.device("meta")` and given memory by `to_empty`: with the same seed the
    result equals the directly constructed model.

    Args:
        module: A module whose parts with parameters all have a `reset_parameters` method, or stand below a module with
            `reset_all_parameters`.

    Raises:
        TypeError: If a part has parameters and no `reset_parameters`.
    """
    reset_all = getattr(module, "reset_all_parameters", None)
    if callable(reset_all):
        reset_all()
        return
    for child in module.children():
        initialize(child)
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    elif any(True for _ in module.parameters(recurse=False)):
        raise TypeError(
            f"{type(module).__name__} has parameters and no reset_parameters(), so it cannot be initialised"
        )


@torch.no_grad()
def draw_output_projection(projection: nn.Linear, branches: int) -> None:
    """Torch's own draw over the root of the number of residual branches, so that their sum keeps its size (GPT-2)."""
    nn.init.kaiming_uniform_(projection.weight, a=math.sqrt(5))
    projection.weight.div_(math.sqrt(branches))

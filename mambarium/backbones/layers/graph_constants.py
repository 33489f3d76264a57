"""Functions whose results a compiled graph takes as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def constant_in_graphs(function: Function) -> Function:
    """Let `torch.compile` call a function while it traces and keep the result: for index maps that NumPy computes.

    It does what `torch.compiler.assume_constant_result` does, which would import the compiler with this package.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function

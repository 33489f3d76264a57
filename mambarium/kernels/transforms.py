"""Derivatives of the operations: in reverse mode, under the transforms of torch.func, and in forward mode.

The formula that an operation of torch.library registers serves plain reverse mode alone: torch.func refuses it, and
forward mode takes the derivative that it lacks for zero. So a call asks first whether one of them is at work. Then
`torch.func.grad`, `vjp`, `jacrev` and `vmap` see an autograd.Function around the operation, and forward mode is left to
the plain references (`choose_backend`).

Nor do eager calls on plain tensors need the operation: what only it offers are fake tensors, graphs and counters, and
to find that none is wanted takes torch longer than a small scan. They go to an autograd.Function around the operation's
Python code.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef

from mambarium.private_names.torch import (
    functional_transforms_are_active,
    is_in_dispatch_mode,
    is_in_forward_mode,
    operation_schema,
)

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def under_transforms() -> bool:
    """Return whether a transform of torch.func or forward mode is at work."""
    return functional_transforms_are_active() or is_in_forward_mode()


def is_eager(arguments: tuple[Any, ...]) -> bool:
    """Return whether a call needs nothing that an operation of torch.library offers beyond its code.

    Not while torch.compile or a mode such as a counter's looks on, nor for tensors without data or of a class of their
    own.
    """
    if torch.compiler.is_compiling() or is_in_dispatch_mode():
        return False
    return all(type(x) in _PLAIN and not x.is_meta for x in arguments if isinstance(x, torch.Tensor))


def differentiable(
    operation: CustomOpDef,
    code: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
) -> Callable[..., Any]:
    """Register an operation's backward, and make the function to call it by, transforms included.

    Under torch.vmap the operation is called for one element after another: each has gradients of its own for what
    they share.

    Args:
        operation: returns a tensor or a tuple of tensors.
        code: what the operation runs.
        backward: as that of torch.autograd.Function.
        setup_context: as that of torch.autograd.Function.

    Returns:
        The function, with the operation's arguments; it raises RuntimeError in forward mode, which it can't serve.
    """
    operation.register_autograd(backward, setup_context=setup_context)
    schema = operation_schema(operation)
    name = schema.name

    def forward(*arguments: Any) -> Any:
        return operation(*arguments)

    # torch.compile counts the parameters to tell whether the first of them is a context.
    kind = inspect.Parameter.POSITIONAL_ONLY
    parameters = inspect.Signature([inspect.Parameter(x.name, kind) for x in schema.arguments])
    forward.__signature__ = parameters  # type: ignore[attr-defined]  # functions have room for it

    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        outputs = []
        for element in range(info.batch_size):
            pairs = zip(arguments, in_dims, strict=True)
            outputs.append(apply(*(x.select(dim, element) if isinstance(dim, int) else x for x, dim in pairs)))
        if isinstance(outputs[0], torch.Tensor):
            return torch.stack(outputs), 0
        return tuple(map(torch.stack, zip(*outputs, strict=True))), (0,) * len(outputs[0])

    def make_apply(**rules: Callable[..., Any]) -> Callable[..., Any]:
        rules |= {"setup_context": setup_context, "backward": backward}
        function: Any = type(name, (torch.autograd.Function,), {rule: staticmethod(f) for rule, f in rules.items()})
        return function.apply

    apply, apply_code = make_apply(forward=forward, vmap=vmap), make_apply(forward=code)

    def call(*arguments: Any) -> Any:
        if under_transforms():
            if is_in_forward_mode():
                raise RuntimeError(f"{name}: forward-mode derivatives are served by backend='reference' only")
            return apply(*arguments)
        if not is_eager(arguments):
            return operation(*arguments)
        if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments):
            return apply_code(*arguments)
        return code(*arguments)

    return call


def differentiable_once(operation: CustomOpDef, code: Callable[..., Any]) -> Callable[..., Any]:
    """`differentiable` for an operation that computes gradients: theirs are refused."""

    def backward(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"{operation_schema(operation).name}: second derivatives are served by backend='reference' only"
        )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    return differentiable(operation, code, backward, setup_context)

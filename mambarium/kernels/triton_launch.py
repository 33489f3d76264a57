"""What the launches of all Triton kernels share."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """A kernel with all that it is launched with.

    `backwards` names the (batch, time, ...) tensors among the arguments whose rows the kernel shall visit from the
    last to the first: it gets the last row's address and the negated stride of time.
    """

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    options: dict[str, int]
    backwards: tuple[str, ...] = ()

    def run(self, device: torch.device) -> None:
        """Launch the kernel on a device, which need not be the current one."""
        if self.programs == 0:
            return
        context: AbstractContextManager[Any] = nullcontext()
        if device.type == "cuda":
            context = torch.cuda.device(device)
        with context:
            self.kernel[(self.programs,)](**{**self.arguments, **self._visited_backwards()}, **self.options)

    def _visited_backwards(self) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name in self.backwards:
            tensor = self.arguments[name]
            if tensor is not None:
                batch, time, *rest = self.arguments[f"{name}_strides"]
                changed |= {name: tensor[:, -1:], f"{name}_strides": (batch, -time, *rest)}
        return changed


def strides(tensor: Tensor | None) -> tuple[int, ...] | None:
    """Return the strides of an optional tensor."""
    return None if tensor is None else tensor.stride()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """Return an optional tensor, contiguous."""
    return None if tensor is None else tensor.contiguous()

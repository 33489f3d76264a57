"""What the launches of all Triton kernels share."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """A kernel with all that it is launched with."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    options: dict[str, int]

    def run(self, device: torch.device) -> None:
        """Launches the kernel on a device, which need not be the current one."""
        if self.programs == 0:
            return
        context: AbstractContextManager[Any] = nullcontext()
        if device.type == "cuda":
            context = torch.cuda.device(device)
        with context:
            self.kernel[(self.programs,)](**self.arguments, **self.options)


def strides(tensor: Tensor | None) -> tuple[int, ...] | None:
    """The strides of an optional tensor."""
    return None if tensor is None else tensor.stride()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """An optional tensor, contiguous."""
    return None if tensor is None else tensor.contiguous()

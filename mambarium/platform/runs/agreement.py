"""One answer for all processes to "stop?" and "write a checkpoint?"."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import distributed


class Agreement:
    """The largest value that any process brings, known to all of them.

    Goes over the CPU (gloo), whatever the training uses, so that it neither waits for a GPU nor meets the
    gradients' reductions. With one process it costs nothing.

    Args:
        trainer: The Trainer, its processes connected; every process must create its Agreement at the same
            point.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._group: Any = distributed.new_group(backend="gloo") if trainer.world_size > 1 else None

    def largest(self, *values: int) -> list[int]:
        """Return the element-wise maximum over all processes; each must call it at the same point.

        Args:
            values: This process's integers.

        Returns:
            As many integers.
        """
        if self._group is None:
            return list(values)
        together = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(together, op=distributed.ReduceOp.MAX, group=self._group)
        return together.tolist()

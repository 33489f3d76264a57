"""What a run computes on and with what precision, or one line on why it can't."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer

from mambarium.errors import InputError
from mambarium.private_names.lightning import optimizer_unscales_gradients, starts_the_command_again

SHORT_PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Lightning's short names of precisions."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
"""Names of strategies with whole checkpoints, restored before the data is dealt, in processes that run the command."""


class ClippedMixedPrecision(MixedPrecision):
    """Mixed precision that clips the gradients of fused optimisers too, which Lightning's refuses.

    A fused optimiser divides gradients by the scaler's factor within its step, too late for clipping. Here they are
    divided before; PyTorch's scaler then leaves it out of the step. bfloat16 has no such factor.
    """

    def clip_gradients(
        self,
        optimizer: Optimizer,
        clip_val: int | float = 0.0,
        gradient_clip_algorithm: GradClipAlgorithmType = GradClipAlgorithmType.NORM,
    ) -> None:
        if clip_val > 0 and self.scaler is not None and optimizer_unscales_gradients(optimizer):
            self.scaler.unscale_(optimizer)
        Precision.clip_gradients(self, optimizer, clip_val, gradient_clip_algorithm)


def device_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Settle accelerator, devices and precision: a GPU if there is one, and one device, unless told otherwise.

    Returns:
        All options of the Trainer with those settled, `plugins` as a list.

    Raises:
        InputError: If one of them can't be had.
    """
    check_strategy(given["strategy"])
    accelerator, precision = accelerator_name(given["accelerator"]), given["precision"]
    plugins = given["plugins"] or []
    plugins = [*plugins] if isinstance(plugins, list | tuple) else [plugins]
    if any(isinstance(plugin, Precision) for plugin in plugins):
        raise InputError("trainer.plugins holds a precision; set trainer.precision instead")
    precision = SHORT_PRECISIONS.get(str(precision), precision)
    if precision == "16-mixed" and accelerator == "cpu":
        raise InputError("trainer.precision 16-mixed needs a GPU: on a CPU set bf16-mixed")
    if str(precision).startswith("transformer-engine"):
        raise InputError(f"trainer.precision {precision} is not supported; set bf16-mixed")
    if precision in ("16-mixed", "bf16-mixed"):
        plugins.append(ClippedMixedPrecision(precision, accelerator))
        precision = None
    devices = 1 if given["devices"] == "auto" else given["devices"]
    return {**given, "accelerator": accelerator, "devices": devices, "precision": precision, "plugins": plugins}


def accelerator_name(given: Any) -> str:
    """`cpu` or `cuda` for what the user gave; refused if it is another, or no GPU is there."""
    for name, kind in (("cpu", CPUAccelerator), ("cuda", CUDAAccelerator)):
        given = name if isinstance(given, kind) else given
    if given == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if given not in ("cpu", "cuda", "gpu"):
        raise InputError(f"trainer.accelerator {given}: the kernels run on cpu or cuda")
    if given != "cpu" and not torch.cuda.is_available():
        raise InputError(f"trainer.accelerator {given}: PyTorch finds no CUDA GPU here; set cpu, or auto")
    return "cpu" if given == "cpu" else "cuda"


def check_strategy(given: Any) -> None:
    """Refuse strategies under which a run can't be resumed exactly, or leaves its result in a process that has ended.

    One device is left, and DDP that starts the command again.
    """
    restarts = type(given) is DDPStrategy and starts_the_command_again(given)
    if not restarts and given not in STRATEGIES:
        name = given if isinstance(given, str) else type(given).__name__
        raise InputError(f"trainer.strategy {name} can't be resumed exactly; set one of {', '.join(STRATEGIES)}")

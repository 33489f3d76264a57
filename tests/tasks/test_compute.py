"""Compute of the published variants, counted, against what their papers say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import LocalVim, MoEMamba, from_variant, list_variants
from mambarium.backbones.variants import PUBLISHED
from mambarium.tasks import ImageClassification
from mambarium.tasks.compute import multiply_accumulates

pytestmark = pytest.mark.thorough

# What the papers' counters do not see of a family.
UNSEEN = {
    "mambavision": ("aten.bmm", "mambarium.selective_scan_forward", "mambarium.causal_conv1d_forward"),
    "mambaout": (),
    "swin": (),
    "convnext": (),
}


def counted(model: nn.Module, size: int) -> dict[str, int]:
    return multiply_accumulates(model, torch.empty(1, 3, size, size, device="meta"))


def as_seen(family: str) -> Callable[[ImageClassification, int], int]:
    """All that a family's counter sees, which is counted as here."""

    def count(task: ImageClassification, size: int) -> int:
        return sum(value for operation, value in counted(task, size).items() if operation not in UNSEEN[family])

    return count


def with_operations_of_scans(task: ImageClassification, size: int) -> int:
    """As VMamba's and LocalVMamba's `flops` count: all operations of a scan, 9 per state and position and one more for
    the skip, not half of them; and 5 operations per value of a layer norm.
    """
    normed = 0

    def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal normed
        normed += output.numel()

    hooks = [module.register_forward_hook(add) for module in task.modules() if isinstance(module, nn.LayerNorm)]
    counts = counted(task, size)
    for hook in hooks:
        hook.remove()
    return sum(counts.values()) + counts["mambarium.grid_scan_forward"] + 5 * normed


def with_projections_of_one_route(task: ImageClassification, size: int) -> int:
    """As LocalVim's `flops` counts: convolution and selection for one of a block's routes, and for the scan along each
    route 5 operations per state and position and two more.
    """
    backbone = task.backbone
    assert isinstance(backbone, LocalVim)
    length = (size // backbone.patch_size) ** 2 + (backbone.cls_token is not None)
    total = backbone.patch_embed.weight.numel() * (size // backbone.patch_size) ** 2 + 1000 * backbone.width
    for block in backbone.layers:
        mixer = block.mixer
        ssm = mixer.ssms[0]
        projections = (mixer.in_proj, ssm.x_proj, ssm.dt_proj, mixer.out_proj)
        total += length * sum(projection.weight.numel() for projection in projections)
        total += (length + ssm.d_conv - 1) * ssm.d_inner * ssm.d_conv
        total += len(mixer.routes) * length * ssm.d_inner * (5 * ssm.d_state + 2)
        total += length * backbone.width
    return total


COUNTERS = {family: as_seen(family) for family in UNSEEN} | {
    "vmamba": with_operations_of_scans,
    "local_vmamba": with_operations_of_scans,
    "local_vim": with_projections_of_one_route,
}


def test_figures_are_of_variants() -> None:
    assert set(PUBLISHED) <= set(list_variants())


COUNTED = [name for name, figure in PUBLISHED.items() if figure.gmacs is not None]


FIRST = {name.split("_")[0]: name for name in reversed(COUNTED)}.values()
"""A variant of each family."""


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in COUNTED]
)
def test_published_compute(name: str) -> None:
    figure = PUBLISHED[name]
    assert figure.gmacs is not None
    with torch.device("meta"):
        task = ImageClassification(from_variant(name), 1000)
    family = next(family for family in COUNTERS if name.startswith(f"{family}_"))
    found = COUNTERS[family](task, figure.input_size) / 1e9
    rounding = 0.055  # published to one decimal
    assert abs(found - figure.gmacs) <= max(0.02 * figure.gmacs, rounding)


def test_routed_experts_are_counted_once_per_token() -> None:
    width, tokens = 32, 64
    with torch.device("meta"):
        backbone = MoEMamba(width=width, depth=1, num_experts=4, expert_width=48)
        counts = multiply_accumulates(backbone, torch.empty(1, tokens, width))
    assert counts["aten.bmm"] == tokens * 2 * width * 48

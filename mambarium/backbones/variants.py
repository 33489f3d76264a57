"""All published variants by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from mambarium.backbones.contract import Backbone
from mambarium.backbones.language import block_recurrent_transformer, lstm, s4d
from mambarium.backbones.language.block_state_transformer import block_state_backbone
from mambarium.backbones.language.mamba import mamba_checkpoints
from mambarium.backbones.language.moe_mamba import moe_mamba_backbone
from mambarium.backbones.language.transformer import transformer_backbone
from mambarium.backbones.published.family import Family, Published
from mambarium.backbones.vision import convnext, mamba_yolo, swin, vit
from mambarium.backbones.vision.local_mamba import local_vim_checkpoints, local_vmamba_checkpoints
from mambarium.backbones.vision.mambaout import mambaout_checkpoints
from mambarium.backbones.vision.mambavision import mambavision_checkpoints
from mambarium.backbones.vision.vim import vim_checkpoints
from mambarium.backbones.vision.vmamba import vmamba_checkpoints
from mambarium.errors import InputError

FAMILIES: tuple[Family, ...] = (
    mamba_checkpoints.FAMILY,
    moe_mamba_backbone.FAMILY,
    transformer_backbone.FAMILY,
    lstm.FAMILY,
    s4d.FAMILY,
    block_state_backbone.FAMILY,
    block_recurrent_transformer.FAMILY,
    vim_checkpoints.FAMILY,
    vmamba_checkpoints.FAMILY,
    mambavision_checkpoints.FAMILY,
    mambaout_checkpoints.FAMILY,
    local_vim_checkpoints.FAMILY,
    local_vmamba_checkpoints.FAMILY,
    mamba_yolo.FAMILY,
    vit.FAMILY,
    swin.FAMILY,
    convnext.FAMILY,
)

VARIANTS: dict[str, Callable[..., Backbone]] = {
    name: build for family in FAMILIES for name, build in family.variants.items()
}
PUBLISHED: dict[str, Published] = {name: figure for family in FAMILIES for name, figure in family.published.items()}


def from_variant(name: str, drop_path: float | None = None) -> Backbone:
    """Build a published variant, with freshly drawn parameters.

    Args:
        name: Family, size and form, such as "mamba_130m" or "vim_tiny"; `list_variants` gives all names.
        drop_path: Probability of dropping the last block for a sample in training, linearly less before, where a task
            wants another than the published one, which serves classification; that one if None.

    Raises:
        InputError: If there is no such variant, or it has no drop path.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.5) or list(VARIANTS)
        raise InputError(f"there is no variant {name!r}; did you mean {', '.join(near)}?")
    if drop_path is None:
        return VARIANTS[name]()
    if "drop_path" not in inspect.signature(VARIANTS[name]).parameters:
        raise InputError(f"{name} has no drop path: leave drop_path away")
    return VARIANTS[name](drop_path=drop_path)


def variant_config(name: str) -> dict[str, Any]:
    """Describe a published variant as a configuration does: `class_path`, and every published argument in `init_args`.

    Raises:
        KeyError: If there is no such variant.
    """
    variant = VARIANTS[name]
    assert isinstance(variant, partial) and isinstance(variant.func, type)
    arguments = inspect.signature(variant.func).bind_partial(*variant.args, **variant.keywords).arguments
    return {"class_path": f"mambarium.backbones.{variant.func.__name__}", "init_args": plain(arguments)}


def plain(value: Any) -> Any:
    """Nested arguments as YAML has them: lists in place of tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def list_variants(pattern: str = "*") -> list[str]:
    """Names of the published variants that match a shell pattern, such as "mambaout_*"."""
    return [name for name in VARIANTS if fnmatchcase(name, pattern)]

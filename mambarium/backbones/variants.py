"""All published variants by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from mambarium.backbones import (
    convnext,
    local_vim,
    local_vmamba,
    mamba,
    mamba_yolo,
    mambaout,
    mambavision,
    moe_mamba,
    swin,
    transformer,
    vim,
    vit,
    vmamba,
)
from mambarium.backbones.contract import Backbone
from mambarium.errors import InputError

VARIANTS: dict[str, Callable[..., Backbone]] = {
    **mamba.VARIANTS,
    **moe_mamba.VARIANTS,
    **transformer.VARIANTS,
    **vim.VARIANTS,
    **vmamba.VARIANTS,
    **mambavision.VARIANTS,
    **mambaout.VARIANTS,
    **local_vim.VARIANTS,
    **local_vmamba.VARIANTS,
    **mamba_yolo.VARIANTS,
    **vit.VARIANTS,
    **swin.VARIANTS,
    **convnext.VARIANTS,
}


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

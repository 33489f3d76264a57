"""All published variants by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase

from mambarium.backbones import (
    convnext,
    local_vim,
    local_vmamba,
    mamba,
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

VARIANTS: dict[str, Callable[[], Backbone]] = {
    **mamba.VARIANTS,
    **moe_mamba.VARIANTS,
    **transformer.VARIANTS,
    **vim.VARIANTS,
    **vmamba.VARIANTS,
    **mambavision.VARIANTS,
    **mambaout.VARIANTS,
    **local_vim.VARIANTS,
    **local_vmamba.VARIANTS,
    **vit.VARIANTS,
    **swin.VARIANTS,
    **convnext.VARIANTS,
}


def from_variant(name: str) -> Backbone:
    """Build a published variant, with freshly drawn parameters.

    Args:
        name: Family, size and form, such as "mamba_130m" or "vim_tiny"; `list_variants` gives all names.

    Raises:
        InputError: If there is no such variant.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.5) or list(VARIANTS)
        raise InputError(f"there is no variant {name!r}; did you mean {', '.join(near)}?")
    return VARIANTS[name]()


def list_variants(pattern: str = "*") -> list[str]:
    """Names of the published variants that match a shell pattern, such as "mambaout_*"."""
    return [name for name in VARIANTS if fnmatchcase(name, pattern)]

"""All families, and their published variants by name."""

import difflib
import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from mambarium.backbones.contract import Backbone
from mambarium.backbones.language.block_recurrent_transformer import FAMILY as BLOCK_RECURRENT
from mambarium.backbones.language.block_recurrent_transformer import BlockRecurrentTransformer
from mambarium.backbones.language.block_state_transformer.block_state_backbone import FAMILY as BLOCK_STATE
from mambarium.backbones.language.block_state_transformer.block_state_backbone import BlockStateTransformer
from mambarium.backbones.language.lstm import FAMILY as LSTMS
from mambarium.backbones.language.lstm import LSTM
from mambarium.backbones.language.mamba.mamba_checkpoints import FAMILY as MAMBA
from mambarium.backbones.language.mamba.mamba_checkpoints import Mamba
from mambarium.backbones.language.moe_mamba.moe_mamba_backbone import FAMILY as MOE_MAMBA
from mambarium.backbones.language.moe_mamba.moe_mamba_backbone import MoEMamba
from mambarium.backbones.language.s4d import FAMILY as S4DS
from mambarium.backbones.language.s4d import S4D
from mambarium.backbones.language.transformer.transformer_backbone import FAMILY as TRANSFORMER
from mambarium.backbones.language.transformer.transformer_backbone import Transformer
from mambarium.backbones.published.family import Family, Published
from mambarium.backbones.vision.convnext import FAMILY as CONVNEXT
from mambarium.backbones.vision.convnext import ConvNeXt
from mambarium.backbones.vision.local_mamba.local_vim_checkpoints import FAMILY as LOCAL_VIM
from mambarium.backbones.vision.local_mamba.local_vim_checkpoints import LocalVim
from mambarium.backbones.vision.local_mamba.local_vmamba_checkpoints import FAMILY as LOCAL_VMAMBA
from mambarium.backbones.vision.local_mamba.local_vmamba_checkpoints import LocalVMamba
from mambarium.backbones.vision.mamba_yolo import FAMILY as MAMBA_YOLO
from mambarium.backbones.vision.mamba_yolo import MambaYOLO
from mambarium.backbones.vision.mambaout.mambaout_checkpoints import FAMILY as MAMBAOUT
from mambarium.backbones.vision.mambaout.mambaout_checkpoints import MambaOut
from mambarium.backbones.vision.mambavision.mambavision_checkpoints import FAMILY as MAMBAVISION
from mambarium.backbones.vision.mambavision.mambavision_checkpoints import MambaVision
from mambarium.backbones.vision.swin import FAMILY as SWIN
from mambarium.backbones.vision.swin import Swin
from mambarium.backbones.vision.vim.vim_checkpoints import FAMILY as VIM
from mambarium.backbones.vision.vim.vim_checkpoints import Vim
from mambarium.backbones.vision.vit import FAMILY as VIT
from mambarium.backbones.vision.vit import ViT
from mambarium.backbones.vision.vmamba.vmamba_checkpoints import FAMILY as VMAMBA
from mambarium.backbones.vision.vmamba.vmamba_checkpoints import VMamba
from mambarium.errors import InputError

__all__ = [
    "LSTM",
    "S4D",
    "BlockRecurrentTransformer",
    "BlockStateTransformer",
    "ConvNeXt",
    "LocalVMamba",
    "LocalVim",
    "Mamba",
    "MambaOut",
    "MambaVision",
    "MambaYOLO",
    "MoEMamba",
    "Swin",
    "Transformer",
    "VMamba",
    "ViT",
    "Vim",
    "from_variant",
    "list_variants",
]

FAMILIES: tuple[Family, ...] = (
    MAMBA,
    MOE_MAMBA,
    TRANSFORMER,
    LSTMS,
    S4DS,
    BLOCK_STATE,
    BLOCK_RECURRENT,
    VIM,
    VMAMBA,
    MAMBAVISION,
    MAMBAOUT,
    LOCAL_VIM,
    LOCAL_VMAMBA,
    MAMBA_YOLO,
    VIT,
    SWIN,
    CONVNEXT,
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
        raise InputError(f"{name} has no drop path; leave drop_path away")
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

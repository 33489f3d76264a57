"""Weights that can't be loaded, recognised by what they are."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from mambarium.errors import InputError

# Last parts of the names of what quantisation puts beside weights or in their place.
_QUANTISED = {
    "SCB": "bitsandbytes",
    "weight_format": "bitsandbytes",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "weight_packed": "compressed-tensors",
    "weight_scale": "compressed-tensors",
    "weight_scale_inv": "8-bit floating point",
    "_packed_params": "torch.ao",
}


def refuse_unreadable(source: str, content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise InputError for weights that are quantised, or one process's part of them."""
    for key, value in weights.items():
        method = _QUANTISED.get(key.rpartition(".")[2])
        if method or value.is_quantized:
            raise InputError(
                f"{source} holds weights quantised by {method or 'torch'} ({key}), which are not read here; give them "
                "without quantisation"
            )
        if key.rpartition(".")[2].startswith(("_flat_param", "flat_param")):
            raise InputError(
                f"{source} holds one process's flat part of FSDP's weights ({key}); save the full state dict instead"
            )
    if ("ds_version" in content or "ds_config" in content) and (
        not weights or all(value.numel() == 0 for value in weights.values())
    ):
        raise InputError(
            f"{source} holds one process's part of DeepSpeed's weights: bring them into one file with the "
            "zero_to_fp32.py beside it"
        )


def refuse_defects(source: str, key: str, value: Tensor, wanted: Tensor) -> None:
    """Raise InputError for a tensor that loading would change, or that no network computes with."""
    if value.layout != torch.strided or value.is_meta:
        raise InputError(f"{source} holds {'no values' if value.is_meta else 'a sparse tensor'} in {key}")
    kinds = torch.is_floating_point(wanted), wanted.dtype == torch.bool
    if value.is_complex() or (torch.is_floating_point(value), value.dtype == torch.bool) != kinds:
        raise InputError(f"{source} holds {_name(value.dtype)} in {key}, expected {_name(wanted.dtype)}")
    if kinds[0] and not torch.isfinite(value.to(torch.promote_types(torch.float32, wanted.dtype))).all():
        infinite = torch.isinf(value.float()).any() and not torch.isnan(value.float()).any()
        raise InputError(f"{source} holds {'infinite values' if infinite else 'NaN'} in {key}: training failed there")


def what_is_there(keys: Collection[str]) -> str:
    """Return the names of a state dict, for messages: how it begins, and the parts of a detector or segmenter."""
    parts = dict.fromkeys(key.split(".")[0] for key in keys)
    begins = f"it begins with {', '.join(list(keys)[:3])}"
    if "backbone" in parts and len(parts) > 1:
        return f"{begins}; it has the parts {', '.join(parts)}, and the backbone is of no family known here"
    return begins


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

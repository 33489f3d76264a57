"""Backbones too large for this machine are refused before any memory is taken."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mambarium.backbones.contract import Backbone
from mambarium.errors import InputError

MOST_PARAMETER_TENSORS = 10_000
"""Parameter tensors that a backbone may have. Published ones have up to a few thousand; each takes time to make."""


def make_backbone(backbone_class: type[Backbone], *args: Any, **kwargs: Any) -> Backbone:
    """Make a backbone, for a parser, unless its parameters don't fit into this machine's memory.

    They are counted on the meta device first. Classes from elsewhere need not work there, and are made at once.

    Raises:
        InputError: If the backbone is too large.
    """
    if backbone_class.__module__.startswith("mambarium."):
        with torch.device("meta"), torch.random.fork_rng(devices=[]), refused_above(memory_bytes()):
            backbone_class(*args, **kwargs)
    return backbone_class(*args, **kwargs)


@contextmanager
def refused_above(most_bytes: int) -> Iterator[None]:
    """Refuse, inside the block, to make a module of more memory, or of more parameters than any backbone needs."""
    tensors = total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, total
        if parameter is None:
            return
        tensors += 1
        total += parameter.numel() * parameter.element_size()
        if total > most_bytes:
            raise InputError(
                f"the backbone's parameters alone need more than the {most_bytes / 2**30:,.1f} GiB of memory here: "
                "lower its width or depth"
            )
        if tensors > MOST_PARAMETER_TENSORS:
            raise InputError(
                f"the backbone has more than {MOST_PARAMETER_TENSORS:,} parameter tensors; lower its depth"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def memory_bytes() -> int:
    """Return the memory that this process may have: the machine's, or less where a container or a limit says so."""
    limits = [sys.maxsize]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    container = Path("/sys/fs/cgroup/memory.max")
    if container.is_file() and (limit := container.read_text().strip()).isdigit():
        limits.append(int(limit))
    if sys.platform != "win32":
        import resource

        own, _ = resource.getrlimit(resource.RLIMIT_AS)
        if own != resource.RLIM_INFINITY:
            limits.append(own)
    return min(limits)

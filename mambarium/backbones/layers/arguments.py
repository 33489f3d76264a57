"""Checks of the backbones' arguments, with one line that says what was expected."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mambarium.errors import InputError


def check_at_least(name: str, value: float, least: int) -> None:
    """Raise InputError unless the argument `name` is at least `least`."""
    if not value >= least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def check_rate(name: str, value: float) -> None:
    """Raise InputError unless the argument `name` is a rate that keeps something, in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"{name} must be at least 0 and below 1, got {value}")


def check_mamba_sizes(
    width: int, depth: int, d_state: int, d_conv: int, expand: int, dt_rank: int | Literal["auto"]
) -> None:
    """Raise InputError unless a stack of selective state-space blocks can have these sizes."""
    sizes = {"width": width, "depth": depth, "d_state": d_state, "expand": expand}
    for name, value in sizes.items():
        check_at_least(name, value, 1)
    if dt_rank != "auto":
        check_at_least("dt_rank", dt_rank, 1)
    if not 2 <= d_conv <= 4:
        raise InputError(f"d_conv must be 2, 3 or 4, which the fast convolutions serve, got {d_conv}")


def check_images(images: Tensor) -> None:
    """Raise InputError unless the images are (batch, 3, height, width)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must be (batch, 3, height, width), got {tuple(images.shape)}")

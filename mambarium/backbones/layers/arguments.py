"""Checks of the backbones' arguments and images, with one line that says what was expected."""

import math
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

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


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise InputError unless the argument `name` is one of the choices, which YAML's types check as well."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def check_stages(
    family: str, depths: Sequence[int], widths: Sequence[int], stem_stride: int = 4, least_width: int = 1
) -> None:
    """Raise InputError unless a network of stages can have these depths and widths, and this reduction by its stem."""
    if len(depths) != len(widths) or not depths:
        raise InputError(f"{family} needs as many depths as widths, at least one, got {len(depths)} and {len(widths)}")
    check_at_least("every one of depths", min(depths), 1)
    check_at_least("every one of widths", min(widths), least_width)
    check_choice(f"{family}'s stem_stride", stem_stride, (1, 2, 4))


class MambaSizes(NamedTuple):
    """Sizes of a Mamba mixer, in the words of `Mamba`; `d_inner` is the number of its inner channels."""

    width: int
    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int


def mamba_sizes(
    width: int, depth: int, d_state: int, d_conv: int, expand: int, dt_rank: int | Literal["auto"]
) -> MambaSizes:
    """Return the sizes of each mixer of a stack; InputError unless selective state-space blocks can have them."""
    sizes = {"width": width, "depth": depth, "d_state": d_state, "expand": expand}
    for name, value in sizes.items():
        check_at_least(name, value, 1)
    rank = math.ceil(width / 16) if dt_rank == "auto" else dt_rank
    check_at_least("dt_rank", rank, 1)
    check_convolution(d_conv)
    return MambaSizes(width, expand * width, d_state, d_conv, rank)


def check_convolution(d_conv: int) -> None:
    """Raise InputError unless the fast convolutions serve this width."""
    if not 2 <= d_conv <= 4:
        raise InputError(f"d_conv must be 2, 3 or 4, which the fast convolutions serve, got {d_conv}")


def check_images(images: Tensor) -> None:
    """Raise InputError unless the images are (batch, 3, height, width)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must be (batch, 3, height, width), got {tuple(images.shape)}")


def check_multiples(network: str, height: int, width: int, divisor: int) -> tuple[int, int]:
    """How often the divisor goes into an image's height and width; InputError unless it does exactly."""
    if min(height, width) < 1 or height % divisor or width % divisor:
        raise InputError(f"{network} takes height and width that are multiples of {divisor}, got {height}x{width}")
    return height // divisor, width // divisor

"""What a batch is, one typed dict per task: data modules make them, tasks read them."""

from typing import TypedDict

from torch import Tensor

IGNORED_TARGET = -100
"""Target value of positions at which nothing is to be predicted."""


class ImageBatch(TypedDict):
    """Images with one class each.

    Attributes:
        image: (batch, 3, height, width), normalised floating point.
        label: (batch,) class numbers.
    """

    image: Tensor
    label: Tensor


class TokenBatch(TypedDict):
    """Windows of text.

    Attributes:
        tokens: (batch, length) token numbers.
        targets: (batch, length) the token that follows each position, `IGNORED_TARGET` where none is predicted.
        num_bytes: (batch,) raw bytes that the counted targets of each window stand for.
    """

    tokens: Tensor
    targets: Tensor
    num_bytes: Tensor

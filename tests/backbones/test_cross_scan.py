"""The cross scan against one plain scan per route, pixels visited in an explicit order."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones.layers.cross_scan import cross_scan
from mambarium.kernels import selective_scan


def visiting_orders(height: int, width: int) -> list[list[int]]:
    """Numbers of the pixels, counted row by row, in the order in which each route comes to them."""
    rows = [row * width + column for row in range(height) for column in range(width)]
    columns = [row * width + column for column in range(width) for row in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def cross_scan_route_by_route(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> Tensor:
    height, width = x.shape[1:3]
    pixels, delta, B, C = (values.flatten(1, 2).transpose(1, -1) for values in (x, delta, B, C))
    y = torch.zeros_like(pixels)  # (batch, dim, pixels)
    for k, order in enumerate(visiting_orders(height, width)):
        scanned = selective_scan(
            pixels[..., order],
            delta[:, :, k][..., order],
            A[k],
            B[:, :, k][..., order],
            C[:, :, k][..., order],
            D[k],
            None,
            delta_bias[k],
            True,
            backend="reference",
        )
        y = y.index_add(2, torch.tensor(order), scanned)
    return y.transpose(1, 2).unflatten(1, (height, width))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (6, 1), (3, 4), (5, 7)])
@pytest.mark.parametrize("d_state", [1, 3])
def test_equals_one_scan_per_route(height: int, width: int, d_state: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, dim = 2, 6
    shapes = {
        "x": (batch, height, width, dim),
        "delta": (batch, height, width, 4, dim),
        "A": (4, dim, d_state),
        "B": (batch, height, width, 4, d_state),
        "C": (batch, height, width, 4, d_state),
        "D": (4, dim),
        "delta_bias": (4, dim),
    }
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    values["A"] = -values["A"].exp()
    weights = torch.randn(shapes["x"], generator=generator)

    results = []
    for function in (cross_scan, cross_scan_route_by_route):
        inputs = {name: value.clone().requires_grad_() for name, value in values.items()}
        out = function(**inputs)
        (out * weights).sum().backward()
        results.append({"out": out.detach(), **{name: value.grad for name, value in inputs.items()}})
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_half_precision_is_summed_in_float32() -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16)
    B = torch.ones(1, 2, 3, 4, 1, dtype=torch.bfloat16)
    delta = torch.ones(1, 2, 3, 4, 4, dtype=torch.bfloat16)
    A, D, delta_bias = -torch.ones(4, 4, 1), torch.ones(4, 4), torch.zeros(4, 4)
    y = cross_scan(x, delta, A, B, B, D, delta_bias)
    assert y.dtype == torch.float32
    expected = cross_scan(x.float(), delta.float(), A, B.float(), B.float(), D, delta_bias)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)

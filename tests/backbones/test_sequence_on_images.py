"""Sequence backbones on images: which patches hear of which, and what passes through."""

import pytest
import torch
from torch import Tensor

from mambarium.backbones import Mamba, MoEMamba, SequenceOnImages

IMAGE = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(1))


def build(*routes: str) -> SequenceOnImages:
    torch.manual_seed(0)
    return SequenceOnImages(Mamba(8, 1, d_state=2), image_size=4, patch_size=1, routes=routes)


def heard(backbone: SequenceOnImages, row: int, column: int) -> Tensor:
    """Which pixels (4, 6) the feature of one of them depends on."""
    image = IMAGE.clone().requires_grad_()
    backbone(image).maps[0][0, :, row, column].sum().backward()
    assert image.grad is not None
    return image.grad[0].abs().amax(0) > 0


@pytest.mark.parametrize(
    ("route", "before"),
    [
        ("rows", lambda row, column: (row, column) <= (1, 2)),
        ("rows_backwards", lambda row, column: (row, column) >= (1, 2)),
        ("columns", lambda row, column: (column, row) <= (2, 1)),
        ("window_2", lambda row, column: (row // 2, column // 2, row, column) <= (0, 1, 1, 2)),
    ],
)
def test_a_patch_hears_of_those_before_it_on_the_route(route: str, before) -> None:
    expected = torch.tensor([[before(row, column) for column in range(6)] for row in range(4)])
    assert torch.equal(heard(build(route), 1, 2), expected)


def test_there_and_back_every_patch_hears_of_all() -> None:
    assert heard(build("rows", "rows_backwards"), 1, 2).all()


@torch.no_grad()
def test_several_routes_give_the_mean_over_each_alone() -> None:
    alone = [build(route)(IMAGE).maps[0] for route in ("rows", "columns_backwards", "window_3")]
    together = build("rows", "columns_backwards", "window_3")(IMAGE).maps[0]
    torch.testing.assert_close(together, sum(alone) / 3, rtol=1e-5, atol=1e-6)


def test_auxiliary_losses_pass_through() -> None:
    torch.manual_seed(0)
    backbone = SequenceOnImages(MoEMamba(8, 2, num_experts=2, d_state=2), image_size=4, patch_size=1)
    inner = backbone.backbone(torch.randn(1, 24, 8)).auxiliary_losses
    losses = backbone(IMAGE).auxiliary_losses
    assert losses.keys() == inner.keys() and losses
    sum(losses.values()).backward()
    assert backbone.pos_embed.grad is not None and backbone.pos_embed.grad.abs().max() > 0

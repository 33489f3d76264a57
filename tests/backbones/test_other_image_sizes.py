"""Positions learned at one image size serve another, in the forward pass and from a checkpoint."""

from collections.abc import Callable

import pytest
import torch

from mambarium.backbones import LocalVim, Mamba, SequenceOnImages, Vim, VisionBackbone, ViT
from mambarium.backbones.layers.patches import resize_positions

ROUTES = (("rows", "window_2"),)
# A small instance for images of a size, and the name and number of its positions without patches.
FAMILIES: dict[str, tuple[Callable[[int], VisionBackbone], str, int]] = {
    "vim": (lambda size: Vim(size, 4, width=8, depth=1, d_state=2), "pos_embed", 1),
    "vim_without_class_token": (
        lambda size: Vim(size, 4, width=8, depth=1, d_state=2, class_token=False),
        "pos_embed",
        0,
    ),
    "vim_overlapping_patches": (lambda size: Vim(size, 4, 2, width=8, depth=1, d_state=2), "pos_embed", 1),
    "local_vim": (lambda size: LocalVim(size, 4, 8, ROUTES, d_state=2), "pos_embed", 0),
    "local_vim_class_token": (lambda size: LocalVim(size, 4, 8, ROUTES, d_state=2, class_token=True), "pos_embed", 1),
    "vit": (lambda size: ViT(size, 4, width=8, depth=1, num_heads=2), "network.encoder.pos_embedding", 1),
    "mamba_on_images": (lambda size: SequenceOnImages(Mamba(8, 1, d_state=2), size, 4), "pos_embed", 0),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@torch.no_grad()
def test_a_checkpoint_of_another_size_says_what_its_model_says_at_that_size(family: str) -> None:
    build, positions, _ = FAMILIES[family]
    torch.manual_seed(0)
    stored, other = build(16).eval(), build(24).eval()
    weights = stored.state_dict()
    weights[positions] = torch.randn_like(weights[positions])  # strong beside the patches
    stored.load_state_dict(weights)
    fitted = other.resized(positions, weights[positions])
    assert fitted is not None
    other.load_state_dict(weights | {positions: fitted})
    if family == "local_vim":  # turned by rotary positions too, which are those of its own grid
        torch.testing.assert_close(fitted, resize_positions(weights[positions], (4, 4), (6, 6)))
        return
    images = torch.randn(2, 3, 24, 24)
    expected, found = stored(images), other(images)
    torch.testing.assert_close(found.maps[0], expected.maps[0])
    torch.testing.assert_close(found.class_token, expected.class_token)


def test_positions_that_do_not_fit_are_left_alone(family: str) -> None:
    build, positions, tokens = FAMILIES[family]
    backbone = build(16)
    wrong = [(1, 4, 16), (1, 6 + tokens, 8), (2, 4 + tokens, 8), (4 + tokens, 8), (1, 0, 8)]
    for shape in [*wrong, (1, 4, 8)] if tokens else wrong:
        assert backbone.resized(positions, torch.zeros(shape)) is None, shape
    for name, value in backbone.named_parameters():
        if name != positions:
            assert backbone.resized(name, value) is None

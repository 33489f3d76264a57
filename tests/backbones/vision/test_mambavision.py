"""MambaVision's own promises: mixers as in the paper's equations, windows, placement of attention."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones import MambaVision
from mambarium.backbones.vision.mambavision.mambavision_backbone import (
    AttentionPlacement,
    MambaVisionMixer,
    SelfAttention,
    WindowedStage,
    attention_blocks,
)


def pattern(placement: AttentionPlacement, depth: int) -> str:
    """S for self-attention, M for Mamba's mixer, as the paper writes it."""
    attending = attention_blocks(placement, depth)
    return "".join("S" if block in attending else "M" for block in range(depth))


@pytest.mark.parametrize(
    ("placement", "of_eight", "of_five"),
    [
        ("last_half", "MMMMSSSS", "MMMSS"),
        ("last_quarter", "MMMMMMSS", "MMMMS"),
        ("first_half", "SSSSMMMM", "SSMMM"),
        ("alternating_mamba_first", "MSMSMSMS", "MSMSM"),
        ("alternating_attention_first", "SMSMSMSM", "SMSMM"),
    ],
)
def test_attention_stands_where_table_5_puts_it(placement: AttentionPlacement, of_eight: str, of_five: str) -> None:
    assert pattern(placement, 8) == of_eight
    assert pattern(placement, 5) == of_five


def test_random_placement_is_half_of_the_blocks_and_always_the_same() -> None:
    torch.manual_seed(1)
    drawn = pattern("random", 8)
    torch.manual_seed(2)
    assert pattern("random", 8) == drawn
    assert drawn.count("S") == 4
    assert drawn not in ("SSSSMMMM", "MMMMSSSS", "MSMSMSMS", "SMSMSMSM")


def test_a_stage_holds_the_mixers_of_its_placement() -> None:
    backbone = MambaVision(depths=(1, 4), width=8, num_heads=(2,), window_sizes=(2,), attention="last_quarter")
    kinds = [type(block.mixer) for block in backbone.levels[1]]
    assert kinds == [MambaVisionMixer, MambaVisionMixer, MambaVisionMixer, SelfAttention]


def plain_mixer(mixer: MambaVisionMixer, tokens: Tensor, causal: bool) -> Tensor:
    """Equation 7 step by step, convolutions and scan written out."""
    x, z = mixer.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)  # (windows, channels / 2, length)

    def convolve(branch: Tensor, weight: Tensor) -> Tensor:
        taps = weight.shape[-1]
        before = taps - 1 if causal else (taps - 1) // 2
        return F.silu(F.conv1d(F.pad(branch, (before, taps - 1 - before)), weight, groups=len(weight)))

    x = convolve(x, mixer.conv1d_x.weight)
    z = F.silu(z) if mixer.conv1d_z is None else convolve(z, mixer.conv1d_z.weight)
    delta_low, B, C = mixer.x_proj(x.transpose(1, 2)).split(mixer.split_sizes, dim=-1)
    delta = F.softplus(delta_low @ mixer.dt_proj.weight.T + 2 * mixer.dt_proj.bias)  # (windows, length, channels / 2)
    A = -mixer.A_log.exp()
    state = torch.zeros(*x.shape[:2], A.shape[1])
    outputs = []
    for t in range(x.shape[-1]):
        step, value = delta[:, t, :, None], x[:, :, t, None]
        state = torch.exp(step * A) * state + step * B[:, t, None, :] * value
        outputs.append((state * C[:, t, None, :]).sum(-1) + mixer.D * x[:, :, t])
    y = torch.stack(outputs, dim=-1)
    combined = torch.cat([y, z], dim=1) if mixer.concatenate else y * z
    return combined.transpose(1, 2) @ mixer.out_proj.weight.T


@pytest.mark.parametrize("d_conv", [2, 3, 4])
@pytest.mark.parametrize(
    ("causal", "symmetric_branch", "combine"),
    [
        (True, False, "gate"),  # the four rows of the paper's table 4
        (False, False, "gate"),
        (False, True, "gate"),
        (False, True, "concatenate"),
        (True, True, "concatenate"),
    ],
)
def test_mixer_is_equation_7_and_its_ablations(
    causal: bool, symmetric_branch: bool, combine: Literal["concatenate", "gate"], d_conv: int
) -> None:
    torch.manual_seed(0)
    mixer = MambaVisionMixer(12, 4, d_conv, causal, symmetric_branch, combine)
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 7, 12, requires_grad=True)
    leaves = [tokens, *mixer.parameters()]
    weight = torch.randn(2, 7, 12)

    found, expected = mixer(tokens), plain_mixer(mixer, tokens, causal)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for mine, plain in zip(
        torch.autograd.grad((found * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4)


class AddNumberOfWindow(nn.Module):
    """Adds 1 to the first window's tokens, 2 to the second's, and so on."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(1, len(x) + 1.0)[:, None, None]


def test_windows_lie_row_by_row_and_overhang_at_the_end() -> None:
    stage = WindowedStage(2)
    stage.append(AddNumberOfWindow())
    found = stage(torch.zeros(2, 1, 3, 5))
    image = torch.tensor([[1.0, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]])
    assert torch.equal(found, torch.stack([image, image + 6]).unsqueeze(1))


class Record(nn.Module):
    """Keeps the windows that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        self.windows = x
        return x


def test_a_window_holds_its_tokens_row_by_row_and_zeros_beyond_the_map() -> None:
    stage = WindowedStage(2)
    stage.append(Record())
    image = torch.arange(1.0, 10).view(1, 1, 3, 3)
    assert torch.equal(stage(image), image)
    windows = [[1.0, 2, 4, 5], [3, 0, 6, 0], [7, 8, 0, 0], [9, 0, 0, 0]]
    assert torch.equal(stage[0].windows, torch.tensor(windows).unsqueeze(-1))


@torch.no_grad()
def test_windows_of_any_size_take_the_same_checkpoint_and_a_large_one_sees_the_whole_map() -> None:
    torch.manual_seed(0)
    sizes = {"depths": (1, 2), "width": 8, "num_heads": (2,), "stem_stride": 1}
    narrow = MambaVision(**sizes, window_sizes=(2,)).eval()
    wide = MambaVision(**sizes, window_sizes=(8,)).eval()
    for parameter in narrow.parameters():
        nn.init.normal_(parameter, std=0.5)
    wide.load_state_dict(narrow.state_dict())
    image = torch.randn(1, 3, 16, 16)
    changed = image.clone()
    changed[..., 15, 15] += 1.0
    for backbone, reaches in ((narrow, False), (wide, True)):
        difference = (backbone(changed).maps[1] - backbone(image).maps[1])[0].abs().amax(0)  # (8, 8)
        assert difference[7, 7] > 1e-2
        assert (difference[0, 0] > 1e-4) == reaches

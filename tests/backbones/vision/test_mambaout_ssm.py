"""MambaOut with Mamba's SSM switched on again."""

import torch
from torch.nn import functional as F

from mambarium.backbones import MambaOut
from mambarium.backbones.vision.mambaout.mambaout_backbone import SSM


def test_the_scan_goes_row_by_row_as_mambas_recurrence_does() -> None:
    torch.manual_seed(0)
    ssm = SSM(dim=6, d_state=3, dt_rank=2)
    x = torch.randn(2, 2, 5, 6)
    tokens = F.silu(x).reshape(2, 10, 6)
    delta_low, B, C = ssm.x_proj(tokens).split([2, 3, 3], dim=-1)
    delta = F.softplus(ssm.dt_proj(delta_low))
    state = torch.zeros(2, 6, 3)
    outputs = []
    for t in range(10):
        step = delta[:, t, :, None]
        state = torch.exp(-step * ssm.A_log.exp()) * state + step * B[:, t, None] * tokens[:, t, :, None]
        outputs.append((state * C[:, t, None]).sum(-1) + ssm.D * tokens[:, t])
    torch.testing.assert_close(ssm(x), torch.stack(outputs, dim=1).view(2, 2, 5, 6), rtol=1e-4, atol=1e-5)


def test_switching_the_ssm_on_adds_it_to_each_block_and_changes_nothing_else() -> None:
    sizes = {"depths": (1, 2), "widths": (8, 12)}
    without = set(MambaOut(**sizes).state_dict())
    added = set(MambaOut(**sizes, ssm=True).state_dict()) - without
    assert without <= set(MambaOut(**sizes, ssm=True).state_dict())
    parts = ["A_log", "D", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"]
    assert added == {f"blocks.{block}.ssm.{part}" for block in ("0.0", "1.0", "1.1") for part in parts}


@torch.no_grad()
def test_with_the_ssm_the_first_row_reaches_the_last() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 24, 24)
    changed = image.clone()
    changed[..., 0, 0] += 1.0
    for ssm in (False, True):
        backbone = MambaOut(depths=(1,), widths=(8,), stem_stride=1, kernel_size=3, ssm=ssm).eval()
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        difference = (backbone(changed).maps[0] - backbone(image).maps[0])[0].abs().amax(0)  # (24, 24)
        assert difference[0, 0] > 1e-3
        assert bool(difference[1:, 8:].any()) == ssm

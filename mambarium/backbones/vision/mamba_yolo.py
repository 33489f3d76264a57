"""Mamba-YOLO's backbone: state space blocks between local convolutions, made for detectors trained from scratch.

"Mamba YOLO: A Simple Baseline for Object Detection with State Space Model" (Wang et al. 2024, arXiv 2406.05835), as in
the official `HZAI-ZJNU/Mamba-YOLO` (`ultralytics/nn/modules/mamba_yolo.py` and `cfg/models/mamba-yolo`). Tensors are
(batch, channels, height, width), in memory with the channels last.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images
from mambarium.backbones.layers.convolutions import STRIDES, ConvNormAct, batch_norm
from mambarium.backbones.layers.drop_path import DropPath
from mambarium.backbones.layers.heads import ChannelNorm, PooledClassifier
from mambarium.backbones.published.family import Counted, Family, Published
from mambarium.backbones.vision.vmamba.vmamba_backbone import SS2D, GridScan
from mambarium.backbones.vision.vmamba.vss_stages import VSSStages
from mambarium.kernels.grid.routes import CROSS

MLP_RATIO = 4
"""Hidden channels of a residual gated block per channel, before a third of them makes room for the gate."""

POOLING_SIZE = 5
"""Height and width of each of the three poolings after the last stage."""


class MambaYOLO(VSSStages):
    """The backbone of Mamba-YOLO (ODMamba), from images to one map per stage.

    After the last stage comes the spatial pyramid pooling of the YOLO family, which belongs to its map.

    Args:
        depths: Number of blocks of each stage.
        widths: Channels of each stage.
        stem_stride: How much the stem reduces height and width: 4 as published, 1 or 2 for small images.
        d_state: Size of one channel's state.
        ssm_ratio: Channels that are scanned per channel of a stage.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
    """

    # The pooling counts as a block of the last stage.
    layer_patterns = (*VSSStages.layer_patterns, (r"pooling\.", 1))

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 1, 1),
        widths: tuple[int, ...] = (32, 64, 128),
        stem_stride: Literal[1, 2, 4] = 4,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        check_at_least("every one of widths", min(widths, default=2), 2)
        super().__init__(
            depths,
            widths,
            stem_stride,
            1,
            drop_path,
            stem=_stem,
            downsampling=VisionClueMerge,
            block=lambda width, rate: ODSSBlock(width, width, d_state, ssm_ratio, drop_path=rate),
        )
        self.pooling = SpatialPyramidPooling(widths[-1])

    def forward(self, images: Tensor) -> VisionFeatures:
        check_images(images)
        maps = self.maps(self.stem(images.contiguous(memory_format=torch.channels_last)))
        return VisionFeatures([*maps[:-1], self.pooling(maps[-1])], None, {})

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Mean of the last map and a linear head; none is published, the family is trained on detection alone."""
        return PooledClassifier(self.feature_info[-1].channels, num_classes)

    def repeated_blocks(self) -> list[nn.Module]:
        """Return the scans and gated blocks of all stages, which have no batch norm; a stage keeps their inputs."""
        blocks = [block for stage in self.blocks for block in stage.children()]
        return [part for block in blocks if isinstance(block, ODSSBlock) for part in (*block.scans, block.gated)]


class ODSSBlock(nn.Module):
    """Object detection state space block: local convolutions, scans, and a gated block, around two residuals.

    With p the input after a 1x1 convolution, y = p + SS2D(norm(LS(p))) and the output y + RG(norm(y)), where LS is
    `LocalSpatialBlock` and RG `ResidualGatedBlock`. The backbone's blocks have one scan and always the convolution (the
    official VSSBlock); those of the neck have several scans one after another and the convolution only where channels
    change, without a bias (the official XSSBlock).
    """

    def __init__(
        self,
        before: int,
        after: int,
        d_state: int = 16,
        ssm_ratio: float = 2.0,
        *,
        num_scans: int = 1,
        in_neck: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.projection = nn.Identity() if in_neck and before == after else ConvNormAct(before, after, bias=not in_neck)
        self.local = LocalSpatialBlock(after)
        self.norm1 = ChannelNorm(after)
        self.scans = nn.Sequential(*(ChannelsFirstSS2D(after, d_state, ssm_ratio) for _ in range(num_scans)))
        self.norm2 = ChannelNorm(after)
        self.gated = ResidualGatedBlock(after)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, height, width)."""
        x = self.projection(x)
        x = x + self.drop_path(self.scans(self.norm1(self.local(x))))
        return x + self.drop_path(self.gated(self.norm2(x)))


class ChannelsFirstSS2D(SS2D):
    """VMamba's gated SS2D with GELU for SiLU, and the start values of the official code.

    These are A = -1 for every state and normal time steps, which remember less than Mamba's at the start.
    """

    def __init__(self, width: int, d_state: int, ssm_ratio: float) -> None:
        super().__init__(width, d_state, ssm_ratio, gate=True, scan=GridScan(CROSS), activation=F.gelu)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start from A = -1, D = 1, normal weights and biases of the time steps, projections as any convolution's."""
        for projection in (self.in_proj, self.out_proj):
            nn.Linear.reset_parameters(projection)
        bound = self.x_proj_weight.shape[2] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        self.dt_projs_weight.normal_()
        self.dt_projs_bias.normal_()
        self.A_logs.zero_()
        self.Ds.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LocalSpatialBlock(nn.Module):
    """LS block: what surrounds a pixel, then its channels, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = batch_norm(width)
        self.fc1 = nn.Conv2d(width, width, 1)
        self.fc2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        return x + self.fc2(F.gelu(self.fc1(self.norm(self.conv(x)))))


class ResidualGatedBlock(nn.Module):
    """RG block: an MLP of two branches, one convolved depthwise around a residual, gating the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 2 * MLP_RATIO * width // 3
        self.fc1 = nn.Conv2d(width, 2 * hidden, 1)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        local, passing = self.fc1(x).chunk(2, dim=1)
        return self.fc2(F.gelu(self.conv(local) + local) * passing)


def _stem(width: int, stride: Literal[1, 2, 4]) -> nn.Sequential:
    """Two 3x3 convolutions with batch norms, which reduce height and width by the stride together."""
    first, second = STRIDES[stride]
    return nn.Sequential(
        ConvNormAct(3, width // 2, 3, stride=first, act=nn.GELU()), ConvNormAct(width // 2, width, 3, stride=second)
    )


class VisionClueMerge(nn.Module):
    """2x2 pixels side by side and a 1x1 convolution, which keeps all. Odd sizes get a row or column of zeros."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.projection = ConvNormAct(4 * before, after, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, ceil(height / 2), ceil(width / 2))."""
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        # From (top left, bottom left, top right, bottom right).
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.projection(torch.cat(corners, dim=1))


class SpatialPyramidPooling(nn.Module):
    """Poolings of growing windows side by side: the fast form of YOLOv5, one pooling after another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(width, width // 2)
        self.merge = ConvNormAct(4 * (width // 2), width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        pooled = [self.reduce(x)]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], POOLING_SIZE, stride=1, padding=POOLING_SIZE // 2))
        return self.merge(torch.cat(pooled, dim=1))


# The official yaml files: repeats 3, 3, 9, 3 times the depth multiple, and 128 to 1024 channels, at most max_channels,
# times the width multiple.
VARIANTS: dict[str, Callable[[], MambaYOLO]] = {
    "mamba_yolo_tiny": partial(MambaYOLO, depths=(1, 1, 3, 1), widths=(32, 64, 128, 256)),
    "mamba_yolo_base": partial(MambaYOLO, depths=(1, 1, 3, 1), widths=(64, 128, 256, 512)),
    "mamba_yolo_large": partial(MambaYOLO, depths=(2, 2, 6, 2), widths=(96, 192, 384, 576)),
}


def _published(average_precision: float) -> Published:
    return Published(average_precision, "COCO AP % of the whole detector", 640, None, "HZAI-ZJNU/Mamba-YOLO")


FAMILY = Family(
    MambaYOLO,
    VARIANTS,
    {
        "mamba_yolo_tiny": _published(44.5),
        "mamba_yolo_base": _published(49.1),
        "mamba_yolo_large": _published(52.1),
    },
    counted={
        "mamba_yolo_tiny": Counted(3_107_384, 4.94),
        "mamba_yolo_base": Counted(11_207_648, 16.22),
        "mamba_yolo_large": Counted(34_163_416, 60.29),
    },
)

"""From any vision backbone's output to normed maps of the strides that a dense task asks for."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.heads import ChannelNorm
from mambarium.errors import InputError
from mambarium.tasks.batches import DetectionBatch, ImageBatch, PaddedImages, SegmentationBatch

Batch = TypeVar("Batch", PaddedImages, DetectionBatch, SegmentationBatch, ImageBatch)


class FeatureMaps(nn.Module):
    """One LayerNorm per map, and maps of the wanted strides from a backbone that has only one.

    A backbone with several maps gives those of the wanted strides. A backbone with a single map (Vim, ViT) gives a
    pyramid as in ViTDet (Li et al. 2022, arXiv 2203.16527, section 3): transposed convolutions to finer strides, max
    pooling to coarser ones, all from the one map.

    What lies in the padding of an image is set to zero, as the padding of a convolution is.

    Args:
        feature_info: Channels and stride of each map, as the backbone states them.
        strides: Strides of the maps to return, from fine to coarse, in input pixels; None for those of the backbone.

    Attributes:
        info: Channels and stride of each returned map.

    Raises:
        InputError: If a stride cannot be had from the backbone, or its coarsest map would not be used.
    """

    def __init__(self, feature_info: Sequence[FeatureInfo], strides: Sequence[int] | None = None) -> None:
        super().__init__()
        provided = [info.stride for info in feature_info]
        wanted = provided if strides is None else list(strides)
        if not wanted or wanted != sorted(set(wanted)):
            raise InputError(f"strides must rise, each given once, got {wanted}")
        if len(provided) == 1:
            (source,) = feature_info
            self.sources = [0] * len(wanted)
            self.resampling = nn.ModuleList(_resampling(source, stride) for stride in wanted)
            channels = [_resampled_channels(source, stride) for stride in wanted]
        else:
            if unknown := sorted(set(wanted) - set(provided)):
                raise InputError(f"the backbone has maps of strides {provided}, none of {unknown}")
            if provided[-1] not in wanted:
                raise InputError(
                    f"strides {wanted} leave out the backbone's coarsest map of stride {provided[-1]}: its last stage "
                    "would not be trained"
                )
            self.sources = [provided.index(stride) for stride in wanted]
            self.resampling = nn.ModuleList(nn.Identity() for _ in wanted)
            channels = [feature_info[index].channels for index in self.sources]
        self.info = tuple(FeatureInfo(*pair) for pair in zip(channels, wanted, strict=True))
        self.norms = nn.ModuleList(ChannelNorm(count) for count in channels)

    def forward(
        self, features: VisionFeatures, image_size: tuple[int, int], valid_size: Tensor | None = None
    ) -> list[Tensor]:
        """Return the wanted maps (batch, channels_i, ceil(height / stride_i), ceil(width / stride_i)).

        Args:
            features: The backbone's output.
            image_size: Height and width of the images that it was computed from, padding included.
            valid_size: (batch, 2) height and width of each image without padding; None if nothing is padded.
        """
        maps: list[Tensor] = []
        for index, resample, norm, (_, stride) in zip(
            self.sources, self.resampling, self.norms, self.info, strict=True
        ):
            size = grid_size(image_size, stride)
            resampled = resample(features.maps[index])[..., : size[0], : size[1]]
            normed = norm(resampled)
            if valid_size is not None:
                normed = normed * inside(valid_size, size, stride)[:, None]
            maps.append(normed)
        return maps


def _steps(source: FeatureInfo, stride: int) -> int:
    """How often the stride must double (negative: halve) from a map to the wanted one."""
    steps = round(math.log2(stride / source.stride))
    if source.stride * 2.0**steps != stride:
        raise InputError(
            f"a map of stride {stride} cannot be made from the backbone's one of stride {source.stride}: "
            "give strides that are it times or divided by a power of two"
        )
    return steps


def _resampled_channels(source: FeatureInfo, stride: int) -> int:
    return max(1, source.channels // 2 ** max(0, -_steps(source, stride)))


def _resampling(source: FeatureInfo, stride: int) -> nn.Module:
    """Transposed convolutions that halve stride and channels, with norm and GELU between, or max pooling."""
    steps = _steps(source, stride)
    if steps >= 0:
        return nn.Sequential(*(nn.MaxPool2d(2, ceil_mode=True) for _ in range(steps)))
    layers: list[nn.Module] = []
    channels = source.channels
    for step in range(-steps):
        if step:
            layers += [ChannelNorm(channels), nn.GELU()]
        finer = max(1, channels // 2)
        layers.append(nn.ConvTranspose2d(channels, finer, 2, stride=2))
        channels = finer
    return nn.Sequential(*layers)


def grid_size(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width of a map of some stride."""
    return -(-image_size[0] // stride), -(-image_size[1] // stride)


def inside(valid_size: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Which cells (batch, height, width) of a map of this stride show a part of images of `valid_size` (batch, 2)."""
    rows, columns = (torch.arange(length, device=valid_size.device) * stride for length in size)
    return (rows < valid_size[:, :1])[:, :, None] & (columns < valid_size[:, 1:])[:, None, :]


def pad_images(images: Tensor, divisor: int) -> Tensor:
    """Zeros below and to the right until height and width of images (batch, ...) are multiples of a number."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % divisor, 0, -height % divisor))


def padded_batch(batch: Batch, divisor: int) -> Batch:
    """Return a batch whose images are padded as `pad_images` does it; all else is the same."""
    padded = batch.copy()
    padded["image"] = pad_images(batch["image"], divisor)
    return padded

"""Norms on a backbone's feature maps, for dense tasks."""

from __future__ import annotations

from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionFeatures


class OutputNorms(nn.Module):
    """One LayerNorm over the channels of each map; class token and auxiliary losses pass through.

    Detection and segmentation put them between the stages' unnormed maps and their neck, as in Swin. They are no part
    of the backbone, so that classification has no parameters without gradient.

    Args:
        feature_info: Channels and stride of each map, as the backbone states them.
    """

    def __init__(self, feature_info: tuple[FeatureInfo, ...]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(info.channels, eps=1e-5) for info in feature_info)

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """The same features, each map (batch, channels, height, width) normed."""
        maps: list[Tensor] = [
            norm(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for norm, feature_map in zip(self.norms, features.maps, strict=True)
        ]
        return features._replace(maps=maps)

"""What stands on a vision backbone's features: norms of its maps, and the classifier that most families have."""

from __future__ import annotations

from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.convolutions import Linear


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, height, width).

    Args:
        channels: Number of channels.
        eps: What is added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OutputNorms(nn.Module):
    """One LayerNorm over the channels of each map; class token and auxiliary losses pass through.

    Detection and segmentation put them between the stages' unnormed maps and their neck, as in Swin. They are no part
    of the backbone, so that classification has no parameters without gradient.

    Args:
        feature_info: Channels and stride of each map, as the backbone states them.
    """

    def __init__(self, feature_info: tuple[FeatureInfo, ...]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(info.channels, eps=1e-5) for info in feature_info)

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """The same features, each map (batch, channels, height, width) normed."""
        return features._replace(
            maps=[norm(feature_map) for norm, feature_map in zip(self.norms, features.maps, strict=True)]
        )


class PooledClassifier(nn.Module):
    """A head on the class token, or on the mean of the last map where there is none.

    Args:
        width: Channels of the features.
        num_classes: Number of classes.
        norm: Norm of the token or the mean; none if None.
        map_norm: Norm of the last map before its mean, in place of `norm`.
        head: From (batch, width) to logits; a linear map if None.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        norm: nn.Module | None = None,
        *,
        map_norm: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = map_norm or norm or nn.Identity()
        self.norms_map = map_norm is not None
        self.head = head or Linear(width, num_classes)

    def forward(self, features: VisionFeatures) -> Tensor:
        """Features to logits (batch, num_classes)."""
        if self.norms_map:
            return self.head(self.norm(features.maps[-1]).mean(dim=(2, 3)))
        token = features.class_token
        return self.head(self.norm(features.maps[-1].mean(dim=(2, 3)) if token is None else token))

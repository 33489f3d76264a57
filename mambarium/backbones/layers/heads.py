"""What stands on a vision backbone's features: a norm of maps, and the classifier that most families have."""

from torch import Tensor, nn

from mambarium.backbones.contract import VisionFeatures
from mambarium.backbones.layers.convolutions import Linear


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, height, width)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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

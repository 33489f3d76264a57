"""Losses of semantic segmentation: cross-entropy, Dice and their sum."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.errors import InputError
from mambarium.tasks.batches import IGNORED_CLASS


def dice_loss(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """One minus the mean soft Dice coefficient of the classes that occur in the truth (Milletari et al. 2016, eq. 4).

    For each class 2 sum(p t) / (sum(p) + sum(t)) over all counted pixels of the batch, with p the probability, from
    logits (batch, classes, height, width), and t the truth, 0 or 1, from the mask (batch, height, width). The mean may
    have weights (classes,). A scalar in float32, 0 if no pixel counts.
    """
    classes = torch.arange(logits.shape[1], device=mask.device).view(-1, 1, 1)
    truth = mask.unsqueeze(1) == classes  # (batch, classes, height, width)
    probability = logits.float().softmax(dim=1) * (mask != IGNORED_CLASS).unsqueeze(1)
    overlap = (probability * truth).sum(dim=(0, 2, 3))  # (classes,)
    of_class = truth.sum(dim=(0, 2, 3))
    total = probability.sum(dim=(0, 2, 3)) + of_class
    weights = (of_class > 0).float() if class_weights is None else class_weights * (of_class > 0)
    missed = 1 - 2 * overlap / total.clamp(min=1e-6)
    return (weights * missed).sum() / weights.sum().clamp(min=1e-6)


class SegmentationLoss(nn.Module):
    """Weighted sum of cross-entropy and Dice loss over the pixels that count.

    Args:
        cross_entropy_weight: Weight of the mean cross-entropy per pixel; 0 leaves it out.
        dice_weight: Weight of the Dice loss; 0 leaves it out.
        class_weights: One weight per class, in both losses: rare classes get more, background less. In the
            cross-entropy a pixel counts as much as its class's weight. All alike if None.

    Raises:
        InputError: If a weight is negative, or all are 0.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        cross_entropy_weight: float = 1.0,
        dice_weight: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not (cross_entropy_weight >= 0 and dice_weight >= 0 and cross_entropy_weight + dice_weight > 0):
            raise InputError(
                f"cross_entropy_weight is {cross_entropy_weight} and dice_weight {dice_weight}; give numbers of 0 or "
                "more, one of them above 0"
            )
        if class_weights is not None and not (min(class_weights) >= 0 and sum(class_weights) > 0):
            raise InputError(f"class_weights are {list(class_weights)}; give numbers of 0 or more, not all 0")
        self.cross_entropy_weight = cross_entropy_weight
        self.dice_weight = dice_weight
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Loss of logits (batch, classes, height, width) against mask (batch, height, width); 0 if no pixel counts."""
        logits, mask = logits.float(), mask.long()
        loss = logits.new_zeros(())
        if self.cross_entropy_weight:
            summed = F.cross_entropy(logits, mask, self.class_weights, ignore_index=IGNORED_CLASS, reduction="sum")
            loss = loss + self.cross_entropy_weight * summed / self._counted(mask).clamp(min=1e-6)
        if self.dice_weight:
            loss = loss + self.dice_weight * dice_loss(logits, mask, self.class_weights)
        return loss

    def _counted(self, mask: Tensor) -> Tensor:
        """Sum of the counted pixels' weights."""
        counted = mask != IGNORED_CLASS
        if self.class_weights is None:
            return counted.sum()
        return (self.class_weights[mask.masked_fill(~counted, 0)] * counted).sum()

"""Which cells learn which object, by how well they find it already (TOOD; Feng et al. 2021, arXiv 2108.07755)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

SCORE_POWER = 0.5
OVERLAP_POWER = 6.0


class Assignment(NamedTuple):
    """What the cells of an image learn.

    Attributes:
        owners: (cells,) number of the object, -1 for none.
        targets: (cells,) the score that the object's class should get, 0 for none.
    """

    owners: Tensor
    targets: Tensor


@torch.no_grad()
def assign(
    centers: Tensor, scores: Tensor, found: Tensor, boxes: Tensor, labels: Tensor, cells_per_object: int
) -> Assignment:
    """Give each object the cells within it whose score and box fit it best, at most `cells_per_object`.

    A cell that fits several objects learns the one that its box overlaps most.

    Args:
        centers: (cells, 2) centre of each cell in pixels.
        scores: (cells, classes) from 0 to 1.
        found: (cells, 4) corners of the boxes that the cells predict.
        boxes: (objects, 4) corners of the objects.
        labels: (objects,) class numbers.
        cells_per_object: Most cells of an object.
    """
    cells = len(centers)
    if not len(boxes):
        return Assignment(torch.full((cells,), -1, device=centers.device), centers.new_zeros(cells))
    sides = torch.cat([centers - boxes[:, None, :2], boxes[:, None, 2:] - centers], dim=2)  # (objects, cells, 4)
    within = sides.amin(dim=2) > 0
    overlap = box_iou(boxes, found) * within  # (objects, cells)
    fit = scores[:, labels].T ** SCORE_POWER * overlap**OVERLAP_POWER * within
    best = fit.topk(min(cells_per_object, cells), dim=1).indices
    chosen = torch.zeros_like(within).scatter(1, best, True) & within
    overlap = torch.where(chosen, overlap, -1.0)
    most, owners = overlap.max(dim=0)  # (cells,)
    owners = torch.where(most >= 0, owners, -1)
    own = owners == torch.arange(len(boxes), device=boxes.device)[:, None]  # (objects, cells)
    fit = fit * own
    # The best cell of an object aims at its overlap, the others at a share of it.
    scale = (overlap * own).amax(dim=1).clamp(min=0) / fit.amax(dim=1).clamp(min=1e-9)
    return Assignment(owners, (fit * scale[:, None]).amax(dim=0))

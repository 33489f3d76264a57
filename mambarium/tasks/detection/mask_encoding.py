"""Instance masks from boxes to images, and as run lengths."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mambarium.tasks.batches import RunLengths


def paste_mask(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Put the mask of a box into an image, interpolating between the centres of its cells.

    The mask is (rows, columns) probabilities; returns the pixels (height, width) of one half and more, on the CPU.
    """
    height, width = size
    canvas = torch.zeros(size, dtype=torch.bool)
    x1, y1, x2, y2 = box.tolist()
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    right, bottom = min(width, math.ceil(x2)), min(height, math.ceil(y2))
    if right <= left or bottom <= top:
        return canvas
    columns = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
    rows = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    values = F.grid_sample(mask.float().cpu()[None, None], torch.stack([x, y], dim=-1)[None], align_corners=False)
    canvas[top:bottom, left:right] = values[0, 0] >= 0.5
    return canvas


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (objects, rows, columns) of boxes (objects, 4) as boolean (objects, height, width) on the CPU."""
    pasted = [paste_mask(mask, box, size) for mask, box in zip(masks, boxes, strict=True)]
    return torch.stack(pasted) if pasted else torch.zeros(0, *size, dtype=torch.bool)


def encode_mask(mask: Tensor) -> RunLengths:
    """Return a boolean mask (height, width) as run lengths."""
    from faster_coco_eval.core import mask as coco_mask

    columns_first = np.asfortranarray(mask.cpu().numpy().astype(np.uint8)[:, :, None])
    (encoded,) = coco_mask.encode(columns_first)
    return RunLengths(size=[int(side) for side in encoded["size"]], counts=encoded["counts"].decode("ascii"))


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a boolean mask (height, width) enlarged or reduced to another size, by the nearest pixel."""
    if tuple(mask.shape) == size:
        return mask
    return F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].bool()

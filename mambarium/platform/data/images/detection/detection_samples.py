"""Images with objects as samples: what a source gives, how they are augmented, how they become a batch."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import Transform

from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.dense.dense_images import CollatePadded, pad
from mambarium.platform.data.images.image_samples import CombiningTransform
from mambarium.tasks.batches import DetectionBatch, RunLengths

OBJECT_ENTRIES = ("boxes", "labels", "crowd", "area", "masks")
"""The entries of a sample that have one row per object; not every sample has masks."""

ROWS = "Labels"
"""What `SanitizeBoundingBoxes` takes for the labels: the first entry of this name, in upper or lower case."""


class DetectionSample(TypedDict):
    """An image with its objects, as transforms of torchvision's v2 take and return it.

    Attributes:
        image: uint8 (3, height, width).
        boxes: (objects, 4) corners x1, y1, x2, y2 in pixels.
        labels: (objects,) class numbers from 0.
        crowd: (objects,) boolean.
        area: (objects,) area in pixels of the original image; no transform changes it.
        masks: (objects, height, width) boolean; absent if the data has none.
        original_size: Height and width of the image as it was read.
        image_id: The image's number in its data set.
        original_masks: In evaluation the masks as they were read, if there are any.
        negative_classes: In data of the LVIS kind, classes known not to be in the image.
        partial_classes: In data of the LVIS kind, classes of which not every object is marked.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    crowd: Tensor
    area: Tensor
    masks: NotRequired[tv_tensors.Mask]
    original_size: tuple[int, int]
    image_id: int
    original_masks: NotRequired[list[RunLengths]]
    negative_classes: NotRequired[list[int]]
    partial_classes: NotRequired[list[int]]


def detection_sample(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    image_id: int,
    crowd: Tensor | None = None,
    area: Tensor | None = None,
    masks: Tensor | None = None,
) -> DetectionSample:
    """Put a sample together, its tensors marked for torchvision's transforms; arguments as in `DetectionSample`.

    Where they are not given, no object is a crowd, and areas are those of the masks, or else of the boxes.
    """
    height, width = image.shape[-2:]
    boxes = boxes.reshape(-1, 4).float()
    if area is None:
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) if masks is None else masks.sum(dim=(1, 2)).float()
    sample = DetectionSample(
        image=tv_tensors.Image(image),
        boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        labels=labels.long(),
        crowd=torch.zeros(len(boxes), dtype=torch.bool) if crowd is None else crowd,
        area=area,
        original_size=(height, width),
        image_id=image_id,
    )
    if masks is not None:
        sample["masks"] = tv_tensors.Mask(masks.reshape(-1, height, width))
    return sample


def boxes_of_masks(masks: Tensor) -> Tensor:
    """Return the least boxes, float32 (objects, 4), around masks, boolean (objects, height, width), none of them empty.

    The right and lower edges of x1, y1, x2, y2 lie behind the last pixel.
    """
    rows, columns = masks.any(dim=2).byte(), masks.any(dim=1).byte()  # (objects, height), (objects, width)
    x1, y1 = columns.argmax(dim=1), rows.argmax(dim=1)
    x2 = columns.shape[1] - columns.flip(1).argmax(dim=1)
    y2 = rows.shape[1] - rows.flip(1).argmax(dim=1)
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def keep_objects(sample: DetectionSample, keep: Tensor) -> DetectionSample:
    """Return a new sample of the objects for which `keep`, boolean (objects,), is true."""
    kept = sample.copy()
    entries: dict[str, Any] = kept  # type: ignore[assignment]  # entries are set by name
    for name in OBJECT_ENTRIES:
        if name in entries:
            entries[name] = tv_tensors.wrap(entries[name].as_subclass(Tensor)[keep], like=entries[name])
    return kept


def visible_objects(sample: DetectionSample) -> DetectionSample:
    """Clip boxes to the image and leave out objects of which less than a pixel each way, or no mask, is left.

    Raises SampleError if a transform removed an object from some entries only.
    """
    _require_whole_objects(sample)
    height, width = sample["image"].shape[-2:]
    clipped = sample.copy()
    boxes = sample["boxes"].as_subclass(Tensor).clone()  # (objects, 4)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    clipped["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    keep = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)
    if "masks" in sample:
        keep &= sample["masks"].as_subclass(Tensor).flatten(1).any(dim=1)
    return keep_objects(clipped, keep)


def _require_whole_objects(sample: DetectionSample) -> None:
    entries: dict[str, Any] = dict(sample)
    rows = {name: len(entries[name]) for name in OBJECT_ENTRIES if name in entries}
    if len(set(rows.values())) > 1:
        raise SampleError(
            f"data.train_transforms remove an object from some entries of a sample only, which leaves "
            f"{', '.join(f'{count} {name}' for name, count in rows.items())}; take the transform out (objects outside "
            "the image are left out in any case), or its labels_getter, so that the default one applies"
        )


class RemovingWholeObjects(Transform):
    """A transform, after which objects that it removed are removed from every entry of the sample.

    torchvision's `SanitizeBoundingBoxes` removes them from boxes, masks and what it finds as the labels: it is given
    the numbers of the rows as these. Raises SampleError if an object was removed from some entries only.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self._transform = transform

    def forward(self, sample: DetectionSample) -> DetectionSample:
        num_objects = len(sample["labels"])
        changed: dict[str, Any] = self._transform({ROWS: torch.arange(num_objects), **sample})
        rows = changed.pop(ROWS, None)  # a transform may give back the entries that it knows alone
        if rows is not None and len(rows) < num_objects:
            changed |= {name: changed[name][rows] for name in ("labels", "crowd", "area")}
        whole: DetectionSample = changed  # type: ignore[assignment]  # the entries that it was given
        _require_whole_objects(whole)
        return whole


def removing_whole_objects(transforms: Sequence[Transform]) -> list[Transform]:
    """Make each transform of one sample a `RemovingWholeObjects`; those that combine samples see to it themselves."""
    return [
        transform if isinstance(transform, CombiningTransform) else RemovingWholeObjects(transform)
        for transform in transforms
    ]


class CollateDetection(CollatePadded):
    """Makes a `DetectionBatch`."""

    def __call__(self, samples: list[DetectionSample]) -> DetectionBatch:
        images, size = self.padded_samples(samples)
        masks = [pad(sample["masks"].as_subclass(Tensor), size, False) for sample in samples if "masks" in sample]
        batch = DetectionBatch(
            **images,
            boxes=[sample["boxes"].as_subclass(Tensor) for sample in samples],
            labels=[sample["labels"] for sample in samples],
            crowd=[sample["crowd"] for sample in samples],
            area=[sample["area"] for sample in samples],
            masks=masks or None,
        )
        if "original_masks" in samples[0]:
            batch["original_masks"] = [sample["original_masks"] for sample in samples]
        if "negative_classes" in samples[0]:
            batch["negative_classes"] = [sample["negative_classes"] for sample in samples]
            batch["partial_classes"] = [sample["partial_classes"] for sample in samples]
        return batch

"""Detectors beside torchvision's whole models with the same weights, on the same images: losses, gradients, detections.

What differs by design is put right in the reference: images are not resized or normalised, strides are known rather
than guessed, FCOS's points lie in the middle of their cells, regions are pooled with half-pixel alignment, the padding
of a batch is zero in the backbone's maps and shows nothing, boxes without extent are no detections, and R-CNN's labels
start at 1 there, at 0 here. torchvision has no cascade: its box heads are set one after another here.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import faster_rcnn, fcos, mask_rcnn, retinanet, roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import (
    FeaturePyramidNetwork,
    MultiScaleRoIAlign,
    clip_boxes_to_image,
    generalized_box_iou_loss,
    poolers,
    roi_align,
)
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from mambarium.backbones import MambaOut
from mambarium.backbones.contract import VisionFeatures
from mambarium.tasks import FCOS, CascadeMaskRCNN, FasterRCNN, MaskRCNN, RetinaNet
from mambarium.tasks.detection.detector import Detections, Detector, ImageSizes, Objects
from mambarium.tasks.detection.regions import BoxSettings, MaskSettings, ProposalSettings

STRIDES = (4, 8, 16, 32)  # the backbone has the first two
CLASSES = 3
CHANNELS = 32
SIZES = (8, 16, 32, 64)
CANONICAL = 32
SCORE, OVERLAP = 0.1, 0.5
LIMIT = 20
Losses = dict[str, Tensor]


class Case:
    """Maps of a batch of images and the objects in them.

    Args:
        padded: Height and width of the batch.
        valid: Height and width of each image.
        objects: Number of objects of each image.
        seed: Seed of maps and objects.
    """

    def __init__(self, padded: tuple[int, int], valid: list[tuple[int, int]], objects: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sizes = ImageSizes(padded, torch.tensor(valid))
        self.maps = [
            torch.randn(len(valid), channels, -(-padded[0] // stride), -(-padded[1] // stride), generator=generator)
            for channels, stride in ((16, 4), (24, 8))
        ]
        self.objects = [_objects(size, count, padded, generator) for size, count in zip(valid, objects, strict=True)]

    def features(self) -> VisionFeatures:
        return VisionFeatures(self.maps, None, {})

    def targets(self, first_label: int) -> list[dict[str, Tensor]]:
        return [
            {"boxes": each.boxes, "labels": each.labels + first_label, "masks": each.masks.to(torch.uint8)}
            for each in self.objects
            if each.masks is not None
        ]

    def shows(self, stride: int) -> Tensor:
        """(batch, rows, columns) whether a cell shows a part of its image."""
        rows, columns = (-(-length // stride) for length in self.sizes.padded)
        cells = [
            [[row * stride < height and column * stride < width for column in range(columns)] for row in range(rows)]
            for height, width in self.sizes.valid.tolist()
        ]
        return torch.tensor(cells)


def _objects(size: tuple[int, int], count: int, padded: tuple[int, int], generator: torch.Generator) -> Objects:
    """Boxes from 5 pixels to the whole image, and masks of random pixels within them."""
    height, width = size
    limits = torch.tensor([width, height], dtype=torch.float32)
    corner = torch.rand(count, 2, generator=generator) * (limits - 6)
    extent = 5 + torch.rand(count, 2, generator=generator) ** 2 * (limits - corner - 5)
    boxes = torch.cat([corner, corner + extent], dim=1)
    masks = torch.zeros(count, *padded, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = torch.rand(bottom - top, right - left, generator=generator) < 0.7
    return Objects(boxes, torch.randint(CLASSES, (count,), generator=generator), masks)


CASES = {
    "equal sizes": partial(Case, (64, 96), [(64, 96), (64, 96)], [4, 3], 0),
    "odd sizes": partial(Case, (40, 56), [(37, 53), (29, 41)], [3, 2], 1),
    "one image without objects": partial(Case, (40, 56), [(33, 47), (39, 50)], [0, 4], 2),
    "no objects": partial(Case, (40, 56), [(33, 47), (39, 50)], [0, 0], 3),
    "an unpadded odd image": partial(Case, (37, 45), [(37, 45)], [3], 4),
}


class Backbone(nn.Module):
    """The case's maps, normed, and torchvision's pyramid with a detector's weights."""

    out_channels = CHANNELS

    def __init__(self, detector: Any, case: Case, pooled: bool) -> None:
        super().__init__()
        self.case, self.norms = case, detector.pyramid.maps.norms
        extra = LastLevelMaxPool() if pooled else LastLevelP6P7(CHANNELS, CHANNELS)
        self.pyramid = FeaturePyramidNetwork([16, 24], CHANNELS, extra)
        weights = detector.pyramid.merge.state_dict()
        for name, layer in zip(("p6", "p7"), detector.pyramid.extra, strict=False):
            weights |= {f"extra_blocks.{name}.{key}": value for key, value in layer.state_dict().items()}
        self.pyramid.load_state_dict(weights)
        self.pooled = pooled

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        normed = OrderedDict()
        for index, (x, norm) in enumerate(zip(self.case.maps, self.norms, strict=True)):
            x = F.layer_norm(x.movedim(1, 3), (x.shape[1],), norm.weight, norm.bias, eps=1e-6).movedim(3, 1)
            normed[str(index)] = torch.where(self.case.shows(4 * 2**index)[:, None], x, 0.0)
        levels = self.pyramid(normed)
        if self.pooled:  # torchvision's has one such level
            levels["pool2"] = levels["pool"][..., ::2, ::2]
        return levels


class Transform(nn.Module):
    """The images as they are."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.sizes = case.sizes

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None) -> tuple[ImageList, Any]:
        valid = [(height, width) for height, width in self.sizes.valid.tolist()]
        return ImageList(torch.zeros(len(valid), 3, *self.sizes.padded), valid), targets

    def postprocess(self, result: list[dict[str, Tensor]], *sizes: object) -> list[dict[str, Tensor]]:
        return result


class Anchors(AnchorGenerator):
    """torchvision's anchors at true strides, in the middle of cells if asked for, those of the padding far from all."""

    def __init__(self, case: Case, sizes: Sequence[Sequence[float]], ratios: Sequence[float], centered: bool) -> None:
        super().__init__(tuple(tuple(each) for each in sizes), (tuple(ratios),) * len(sizes))
        self.case, self.centered = case, centered

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        anchors = []
        for image in range(len(self.case.maps[0])):
            corners = []
            for stride, around_zero in zip(STRIDES, self.cell_anchors, strict=True):
                for row, cells in enumerate(self.case.shows(stride)[image].tolist()):
                    for column, shown in enumerate(cells):
                        x, y = ((index + 0.5 * self.centered) * stride for index in (column, row))
                        shift = torch.tensor([x, y, x, y]) if shown or self.centered else torch.tensor(-1e4)
                        corners.append(around_zero + shift)
            anchors.append(torch.cat(corners))
        return anchors


def without_padding(head: nn.Module, case: Case) -> nn.Module:
    """A one-stage head whose logits in the padding are very low."""

    def hook(module: nn.Module, given: object, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        shown = torch.cat([case.shows(stride).flatten(1) for stride in STRIDES], dim=1)
        shown = shown.repeat_interleave(outputs["cls_logits"].shape[1] // shown.shape[1], dim=1)
        return outputs | {"cls_logits": outputs["cls_logits"].masked_fill(~shown[..., None], -50.0)}

    head.register_forward_hook(hook)
    return head


def shake(detector: nn.Module) -> None:
    """Weights and biases with which scores and boxes differ from place to place and objects are found."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(noise * 0.2 + name.endswith("weight"))  # a norm's scale, or a bias
            else:
                parameter.copy_(noise * (1.5 / parameter[0].numel()) ** 0.5)
            if (
                "corrections" in name or "proposals.head.bbox_pred" in name
            ):  # rounding of boxes of hardly any extent would grow from stage to stage
                parameter.mul_(0.3)


def fcos_pair(case: Case) -> tuple[Detector, nn.Module]:
    ours = FCOS(
        MambaOut((1, 1), (16, 24)).feature_info,
        CLASSES,
        STRIDES,
        CHANNELS,
        num_convs=1,
        score_threshold=SCORE,
        nms_threshold=OVERLAP,
        candidates_per_level=40,
        detections_per_image=LIMIT,
    )
    shake(ours)
    nn.init.constant_(ours.head.regression_head.bbox_reg.bias, 1.0)
    theirs = fcos.FCOS(
        Backbone(ours, case, pooled=False),
        CLASSES,
        anchor_generator=Anchors(case, [(stride,) for stride in STRIDES], (1.0,), centered=True),
        head=fcos.FCOSHead(CHANNELS, 1, CLASSES, 1),
        center_sampling_radius=1.5,
        score_thresh=SCORE,
        nms_thresh=OVERLAP,
        detections_per_img=1000,
        topk_candidates=40,
    )
    theirs.head.load_state_dict(ours.head.state_dict())
    without_padding(theirs.head, case)
    return ours, theirs


def retinanet_pair(case: Case) -> tuple[Detector, nn.Module]:
    ours = RetinaNet(
        MambaOut((1, 1), (16, 24)).feature_info,
        CLASSES,
        STRIDES,
        CHANNELS,
        SIZES,
        score_threshold=SCORE,
        nms_threshold=OVERLAP,
        candidates_per_level=40,
        detections_per_image=LIMIT,
    )
    shake(ours)
    sizes = [(size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)) for size in SIZES]
    theirs = retinanet.RetinaNet(
        Backbone(ours, case, pooled=False),
        CLASSES,
        anchor_generator=Anchors(case, sizes, (0.5, 1.0, 2.0), centered=False),
        score_thresh=SCORE,
        nms_thresh=OVERLAP,
        detections_per_img=1000,
        topk_candidates=40,
    )
    theirs.head.load_state_dict(ours.head.state_dict())
    without_padding(theirs.head, case)
    return ours, theirs


PROPOSALS = ProposalSettings(SIZES, samples_per_image=40, candidates=(60, 40), kept=(40, 30))
BOXES = BoxSettings(
    samples_per_image=24,
    pooled_size=3,
    canonical_size=CANONICAL,
    width=48,
    score_threshold=SCORE,
    nms_threshold=OVERLAP,
    detections_per_image=LIMIT,
)
MASKS = MaskSettings(pooled_size=4, num_convs=2, channels=16)


def their_rcnn(ours: Any, case: Case) -> Any:
    """torchvision's Mask R-CNN with our proposals' and masks' weights, its box heads not yet ours."""
    # A level in the padding has no image: proposals there are clipped to nothing, so anchors stay where they are.
    anchors = Anchors(
        Case(case.sizes.padded, [case.sizes.padded] * len(case.maps[0]), [0] * len(case.maps[0]), 0),
        [(size,) for size in SIZES],
        (0.5, 1.0, 2.0),
        centered=False,
    )
    pooling = partial(MultiScaleRoIAlign, ["0", "1"], sampling_ratio=2, canonical_scale=CANONICAL)
    arguments: dict[str, Any] = {}
    if ours.masks is not None:
        arguments = {
            "mask_roi_pool": pooling(output_size=4),
            "mask_head": mask_rcnn.MaskRCNNHeads(CHANNELS, [16, 16], 1),
            # torchvision's masks have a class for the background.
            "mask_predictor": mask_rcnn.MaskRCNNPredictor(16, 16, CLASSES + 1),
        }
    theirs = (mask_rcnn.MaskRCNN if arguments else faster_rcnn.FasterRCNN)(
        Backbone(ours, case, pooled=True),
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=40,
        rpn_post_nms_top_n_train=40,
        rpn_post_nms_top_n_test=30,
        rpn_batch_size_per_image=40,
        box_roi_pool=pooling(output_size=3),
        box_head=faster_rcnn.TwoMLPHead(CHANNELS * 9, 48),
        box_predictor=faster_rcnn.FastRCNNPredictor(48, CLASSES + 1),
        box_score_thresh=SCORE,
        box_nms_thresh=OVERLAP,
        box_detections_per_img=LIMIT,
        box_batch_size_per_image=24,
        **arguments,
    )
    theirs.rpn.head.load_state_dict(ours.proposals.head.state_dict())
    if ours.masks is not None:
        theirs.roi_heads.mask_head.load_state_dict(ours.masks.head.state_dict())
        weights = ours.masks.predictor.state_dict()
        for key in ("mask_fcn_logits.weight", "mask_fcn_logits.bias"):
            weights[key] = torch.cat([torch.zeros_like(weights[key][:1]), weights[key]])
        theirs.roi_heads.mask_predictor.load_state_dict(weights)
    return theirs


def rcnn_pair(case: Case, masks: bool) -> tuple[Detector, nn.Module]:
    info = MambaOut((1, 1), (16, 24)).feature_info
    ours: Any = (
        MaskRCNN(info, CLASSES, STRIDES, CHANNELS, 0.5, PROPOSALS, BOXES, MASKS)
        if masks
        else FasterRCNN(info, CLASSES, STRIDES, CHANNELS, 0.5, PROPOSALS, BOXES)
    )
    shake(ours)
    theirs = their_rcnn(ours, case)
    theirs.roi_heads.box_head.load_state_dict(ours.regions.box_head.state_dict())
    theirs.roi_heads.box_predictor.cls_score.load_state_dict(ours.regions.box_predictor.classes.state_dict())
    theirs.roi_heads.box_predictor.bbox_pred.load_state_dict(ours.regions.box_predictor.corrections.state_dict())
    return ours, theirs


class Cascade(nn.Module):
    """torchvision's Mask R-CNN with three box heads, each on the boxes of the one before; the class scores' mean."""

    def __init__(self, ours: Any, case: Case, giou: bool) -> None:
        super().__init__()
        self.parts, self.giou = their_rcnn(ours, case), giou
        self.transform: nn.Module = nn.Identity()
        self.stages = nn.ModuleList()
        for stage, (iou, scale) in enumerate(((0.5, 10.0), (0.6, 20.0), (0.7, 30.0))):
            pooling = MultiScaleRoIAlign(["0", "1"], 3, 2, canonical_scale=CANONICAL)
            head, predictor = faster_rcnn.TwoMLPHead(CHANNELS * 9, 48), faster_rcnn.FastRCNNPredictor(48, CLASSES + 1)
            predictor.bbox_pred = nn.Linear(48, 4)
            head.load_state_dict(ours.box_heads[stage].state_dict())
            predictor.cls_score.load_state_dict(ours.box_predictors[stage].classes.state_dict())
            predictor.bbox_pred.load_state_dict(ours.box_predictors[stage].corrections.state_dict())
            scales = (scale, scale, scale / 2, scale / 2)
            self.stages.append(
                roi_heads.RoIHeads(pooling, head, predictor, iou, iou, 24, 0.25, scales, SCORE, OVERLAP, LIMIT)
            )

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        shown, targets = self.transform(images, targets)
        levels = self.parts.backbone(shown.tensors)
        boxes, losses = self.parts.rpn(shown, levels, targets)
        if targets is None:
            return self.found(levels, boxes, shown.image_sizes)
        first: Any = self.stages[0]
        boxes, owners, labels, _ = first.select_training_samples(boxes, targets)
        positive = [each > 0 for each in labels]
        sampled, sampled_owners = boxes, owners
        for number, (stage, weight) in enumerate(zip(self.stages, (1.0, 0.5, 0.25), strict=True), start=1):
            if number > 1:
                owners, labels = stage.assign_targets_to_proposals(
                    boxes, [each["boxes"] for each in targets], [each["labels"] for each in targets]
                )
            wanted = [
                target["boxes"][owner] if len(target["boxes"]) else torch.zeros(len(owner), 4)
                for target, owner in zip(targets, owners, strict=True)
            ]
            logits, corrections, corrected = self.run(stage, levels, boxes, shown.image_sizes)
            corrections = corrections.repeat(1, CLASSES + 1)
            goals = stage.box_coder.encode(wanted, boxes)
            classes, of_boxes = roi_heads.fastrcnn_loss(logits, corrections, labels, goals)
            if self.giou:
                found = torch.cat(labels) > 0
                overlap = generalized_box_iou_loss(corrected[found], torch.cat(wanted)[found], reduction="sum")
                of_boxes = 10 * overlap / len(found)
            losses |= {f"classification_{number}": weight * classes, f"boxes_{number}": weight * of_boxes}
            boxes = self.clipped(corrected.detach(), boxes, shown.image_sizes)
        sampled = [each[kept] for each, kept in zip(sampled, positive, strict=True)]
        sampled_owners = [each[kept] for each, kept in zip(sampled_owners, positive, strict=True)]
        losses["loss_mask"] = roi_heads.maskrcnn_loss(
            self.masks(levels, sampled, shown.image_sizes),
            sampled,
            [each["masks"] for each in targets],
            [each["labels"] for each in targets],
            sampled_owners,
        )
        return losses

    def found(self, levels: Losses, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        probabilities = []
        for stage in self.stages:
            logits, _, corrected = self.run(stage, levels, boxes, sizes)
            probabilities.append(logits.softmax(dim=1))
            boxes = self.clipped(corrected, boxes, sizes)
        logits = (sum(probabilities) / 3).log()
        last: Any = self.stages[2]
        parts = last.postprocess_detections(logits, torch.zeros(len(logits), 4 * (CLASSES + 1)), boxes, sizes)
        labels = parts[2]
        masks = roi_heads.maskrcnn_inference(self.masks(levels, parts[0], sizes), labels)
        return [
            dict(zip(("boxes", "scores", "labels", "masks"), each, strict=True))
            for each in zip(*parts, masks, strict=True)
        ]

    def run(self, stage: Any, levels: Losses, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> tuple[Tensor, ...]:
        logits, corrections = stage.box_predictor(stage.box_head(stage.box_roi_pool(levels, boxes, sizes)))
        return logits, corrections, stage.box_coder.decode(corrections, boxes)[:, 0]

    def clipped(self, corrected: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        parts = corrected.split([len(each) for each in boxes])
        return [clip_boxes_to_image(each, size) for each, size in zip(parts, sizes, strict=True)]

    def masks(self, levels: Losses, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        heads = self.parts.roi_heads
        return heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(levels, boxes, sizes)))


def cascade_pair(case: Case, giou: bool) -> tuple[Detector, nn.Module]:
    ours = CascadeMaskRCNN(
        MambaOut((1, 1), (16, 24)).feature_info,
        CLASSES,
        STRIDES,
        CHANNELS,
        box_loss="giou" if giou else "smooth_l1",
        proposals=PROPOSALS,
        boxes=BOXES,
        masks=MASKS,
    )
    shake(ours)
    return ours, Cascade(ours, case, giou)


PAIRS: dict[str, Callable[[Case], tuple[Detector, nn.Module]]] = {
    "FCOS": fcos_pair,
    "RetinaNet": retinanet_pair,
    "FasterRCNN": partial(rcnn_pair, masks=False),
    "MaskRCNN": partial(rcnn_pair, masks=True),
    "CascadeMaskRCNN": partial(cascade_pair, giou=False),
    "CascadeMaskRCNN with GIoU": partial(cascade_pair, giou=True),
}
THEIR_NAMES = {
    "FCOS": {"classification": "classification", "boxes": "bbox_regression", "centredness": "bbox_ctrness"},
    "RetinaNet": {"classification": "classification", "boxes": "bbox_regression"},
    "FasterRCNN": {
        "proposal_objectness": "loss_objectness",
        "proposal_boxes": "loss_rpn_box_reg",
        "classification": "loss_classifier",
        "boxes": "loss_box_reg",
    },
}
THEIR_NAMES["MaskRCNN"] = THEIR_NAMES["FasterRCNN"] | {"masks": "loss_mask"}
_STAGES = {f"{term}_{stage}": f"{term}_{stage}" for term in ("classification", "boxes") for stage in (1, 2, 3)}
THEIR_NAMES["CascadeMaskRCNN"] = {
    "proposal_objectness": "loss_objectness",
    "proposal_boxes": "loss_rpn_box_reg",
    **_STAGES,
    "masks": "loss_mask",
}
THEIR_NAMES["CascadeMaskRCNN with GIoU"] = THEIR_NAMES["CascadeMaskRCNN"]

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def half_pixel_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions and mask targets are pooled as in Detectron2; torchvision keeps Detectron's shift by half a pixel."""
    for module in (poolers, roi_heads):
        monkeypatch.setattr(module, "roi_align", partial(roi_align, aligned=True))


def compare_losses(case: Case, ours: Callable[[], Losses], theirs: Callable[[], Losses]) -> None:
    """Each term and the gradient of their sum for the backbone's maps, with the same random numbers."""
    results = []
    for losses in (theirs, ours):
        for x in case.maps:
            x.requires_grad_()
        torch.manual_seed(0)
        terms = losses()
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), case.maps)
        results.append((terms, gradients))
    (expected, expected_gradients), (found, gradients) = results
    assert found.keys() == expected.keys()
    for name in expected:
        close(found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert expected_gradient.abs().max() > 1e-4
        close(gradient, expected_gradient)


def compare_detections(found: list[Detections], expected: list[dict[str, Tensor]], first_label: int) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        extent = theirs["boxes"][:, 2:] - theirs["boxes"][:, :2]
        kept = torch.nonzero((extent > 1e-2).all(dim=1))[:LIMIT, 0]
        assert len(kept) >= 5
        longest = theirs["boxes"].max()  # the tolerance is a share of the image
        close(ours.boxes / longest, theirs["boxes"][kept] / longest)
        close(ours.scores, theirs["scores"][kept])
        assert ours.labels.tolist() == (theirs["labels"][kept] - first_label).tolist()
        assert len(set(ours.labels.tolist())) > 1
        if "masks" in theirs:
            assert ours.masks is not None
            close(ours.masks, theirs["masks"][kept, 0])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("case_name", CASES)
def test_losses_are_torchvisions(name: str, case_name: str) -> None:
    case = CASES[case_name]()
    ours, theirs = PAIRS[name](case)
    theirs.transform = Transform(case)
    images = [torch.zeros(3, 1, 1)] * len(case.objects)

    def reference() -> Losses:
        losses = theirs.train()(images, case.targets(1 if "RCNN" in name else 0))
        return {ours: losses[theirs] for ours, theirs in THEIR_NAMES[name].items()}

    compare_losses(case, lambda: ours.train().losses(case.features(), case.sizes, case.objects), reference)


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("case_name", ["equal sizes", "odd sizes", "an unpadded odd image"])
def test_detections_are_torchvisions(name: str, case_name: str) -> None:
    case = CASES[case_name]()
    ours, theirs = PAIRS[name](case)
    theirs.transform = Transform(case)
    expected = theirs.eval()([torch.zeros(3, 1, 1)] * len(case.objects))
    compare_detections(ours.eval().detect(case.features(), case.sizes), expected, 1 if "RCNN" in name else 0)


OUR_NAMES = {  # torchvision's names of what has the same meaning, and ours
    FCOS: {"center_sampling_radius": "center_radius", "nms_thresh": "nms_threshold"},
    RetinaNet: {
        "score_thresh": "score_threshold",
        "nms_thresh": "nms_threshold",
        "fg_iou_thresh": "positive_iou",
        "bg_iou_thresh": "negative_iou",
        "topk_candidates": "candidates_per_level",
    },
}


def defaults(function: Callable[..., object]) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize(("ours", "theirs"), [(FCOS, fcos.FCOS), (RetinaNet, retinanet.RetinaNet)])
def test_defaults_of_one_stage_detectors_are_torchvisions(ours: type, theirs: type) -> None:
    found, expected = defaults(ours), defaults(theirs)
    names = OUR_NAMES[ours] | {"topk_candidates": "candidates_per_level"}
    assert {name: found[name] for name in names.values()} == {names[name]: expected[name] for name in names}
    assert found["strides"] == (8, 16, 32, 64, 128)
    # As the papers' evaluations on COCO have it.
    assert (found["score_threshold"], found["detections_per_image"]) == (0.05, 100)


def test_defaults_of_two_stage_detectors_are_torchvisions() -> None:
    proposals, boxes, theirs = ProposalSettings(), BoxSettings(), defaults(faster_rcnn.FasterRCNN)
    assert proposals.candidates == (theirs["rpn_pre_nms_top_n_train"], theirs["rpn_pre_nms_top_n_test"])
    assert proposals.kept == (theirs["rpn_post_nms_top_n_train"], theirs["rpn_post_nms_top_n_test"])
    assert proposals.nms_threshold == theirs["rpn_nms_thresh"]
    assert (proposals.positive_iou, proposals.negative_iou) == (
        theirs["rpn_fg_iou_thresh"],
        theirs["rpn_bg_iou_thresh"],
    )
    assert proposals.samples_per_image == theirs["rpn_batch_size_per_image"]
    assert proposals.positive_fraction == theirs["rpn_positive_fraction"]
    assert (boxes.score_threshold, boxes.nms_threshold) == (theirs["box_score_thresh"], theirs["box_nms_thresh"])
    assert boxes.detections_per_image == theirs["box_detections_per_img"]
    assert boxes.samples_per_image == theirs["box_batch_size_per_image"]
    assert boxes.positive_fraction == theirs["box_positive_fraction"]
    assert defaults(FasterRCNN)["strides"] == defaults(CascadeMaskRCNN)["strides"] == (4, 8, 16, 32, 64)
    assert proposals.anchor_sizes == defaults(RetinaNet)["anchor_sizes"] == (32, 64, 128, 256, 512)
    assert proposals.aspect_ratios == defaults(RetinaNet)["aspect_ratios"] == (0.5, 1.0, 2.0)
    assert defaults(FasterRCNN)["positive_iou"] == theirs["box_fg_iou_thresh"] == theirs["box_bg_iou_thresh"]
    assert (boxes.pooled_size, boxes.width, boxes.canonical_size) == (7, 1024, 224)
    assert MaskSettings() == MaskSettings(pooled_size=14, num_convs=4, channels=256)

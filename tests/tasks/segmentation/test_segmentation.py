"""Semantic segmentation: published metrics, losses, inference, every backbone."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mambarium.backbones import (
    ConvNeXt,
    LocalVim,
    LocalVMamba,
    Mamba,
    MambaOut,
    MambaVision,
    MambaYOLO,
    SequenceOnImages,
    Swin,
    Vim,
    VisionBackbone,
    ViT,
    VMamba,
    from_variant,
)
from mambarium.errors import InputError
from mambarium.tasks import LightFPNHead, SegmentationLoss, SegmentationObjective, SemanticSegmentation, UperNetHead
from mambarium.tasks.batches import IGNORED_CLASS, SegmentationBatch
from mambarium.tasks.segmentation.segmentation_heads import SegmentationHeadFactory
from mambarium.tasks.segmentation.segmentation_losses import dice_loss
from mambarium.tasks.segmentation.segmentation_metrics import SegmentationMetrics, confusion_matrix
from mambarium.tasks.segmentation.sliding_windows import Inference, window_starts


def batch_of(masks: list[Tensor], images: Tensor | None = None) -> SegmentationBatch:
    """A batch whose images are as large as their masks, all of one size unless images are given."""
    if images is None:
        images = torch.zeros(len(masks), 3, *masks[0].shape)
    sizes = torch.tensor([list(mask.shape) for mask in masks])
    padded = torch.full((len(masks), *images.shape[-2:]), IGNORED_CLASS)
    for row, mask in enumerate(masks):
        padded[row, : mask.shape[0], : mask.shape[1]] = mask
    return SegmentationBatch(
        image=images,
        valid_size=sizes,
        original_size=sizes,
        image_id=torch.arange(len(masks)),
        mask=padded,
        original_mask=masks,
    )


def test_confusion_matrix_made_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1], [2, 1, IGNORED_CLASS]])
    predicted = torch.tensor([[0, 1, 1], [0, 1, 2]], dtype=torch.uint8)
    assert confusion_matrix(predicted, truth, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_metrics_are_given_all_pixels_but_the_ignored() -> None:
    masks = [torch.tensor([[0, 1, IGNORED_CLASS]]), torch.tensor([[IGNORED_CLASS], [1]])]
    predictions = [torch.tensor([[1, 1, 0]]), torch.tensor([[0], [0]])]
    objective = SegmentationObjective(MambaOut(depths=(1,), widths=(8,)), ["sky", "road"])
    predicted, truth = objective.metric_inputs(predictions, {"original_mask": masks})
    assert truth.tolist() == [0, 1, 1] and predicted.tolist() == [1, 1, 0]


def test_metrics_equal_those_of_a_hand_made_matrix() -> None:
    """Four classes: one right, one confused, one missed altogether, one that does not occur."""
    truth = torch.tensor([[0, 0, 1], [2, 1, IGNORED_CLASS]])
    predicted = torch.tensor([[0, 1, 1], [0, 1, 3]])
    metrics = SegmentationMetrics(["sky", "road", "car", "tree"])
    metrics.update([predicted], batch_of([truth]))
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert set(values) == set(metrics.names)
    assert values == pytest.approx(
        {
            "IoU/sky": 1 / 3,
            "IoU/road": 2 / 3,
            "IoU/car": 0.0,
            "IoU/tree": math.nan,
            "mIoU": 1 / 3,
            "mIoU_classes": 3,
            "mean_accuracy": 0.5,
            "mean_accuracy_classes": 3,
            "pixel_accuracy": 3 / 5,
        },
        nan_ok=True,
    )


def test_metrics_are_of_the_data_set_not_of_its_images() -> None:
    """A class that is tiny in one image and large in another counts by its pixels: 1 of 101, not half."""
    big, tiny = torch.ones(10, 10, dtype=torch.int64), torch.zeros(10, 10, dtype=torch.int64)
    tiny[0, 0] = 1
    metrics = SegmentationMetrics(["background", "object"])
    metrics.update([big], batch_of([big]))
    metrics.update([torch.zeros_like(tiny)], batch_of([tiny]))
    values = metrics.compute()
    assert values["IoU/object"].item() == pytest.approx(100 / 101)
    assert values["mIoU"].item() == pytest.approx((100 / 101 + 99 / 100) / 2)


def test_a_class_that_is_predicted_but_nowhere_true_counts_in_the_mean_iou_alone() -> None:
    metrics = SegmentationMetrics(["sky", "road", "sky"])
    metrics.update([torch.tensor([[0, 1]])], batch_of([torch.tensor([[0, 0]])]))
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert values["IoU/sky (class 0)"] == 0.5 and values["IoU/road"] == 0 and math.isnan(values["IoU/sky (class 2)"])
    assert values["mIoU"] == 0.25 and values["mIoU_classes"] == 2 and set(values) == set(metrics.names)
    assert values["mean_accuracy"] == 0.5 and values["mean_accuracy_classes"] == 1


def test_masks_without_a_counted_pixel_have_no_mean_iou() -> None:
    metrics = SegmentationMetrics(["sky", "road"])
    metrics.update([torch.zeros(2, 3)], batch_of([torch.full((2, 3), IGNORED_CLASS)]))
    with pytest.raises(InputError, match="none of the evaluated masks has a pixel that counts"):
        metrics.compute()


def test_cross_entropy_weighs_classes_and_leaves_out_ignored_pixels() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 3, 5, 4), torch.randint(3, (2, 5, 4))
    mask[0, 0] = IGNORED_CLASS
    found = SegmentationLoss(class_weights=[0.2, 1.0, 3.0])(logits, mask)
    expected = F.cross_entropy(logits, mask, torch.tensor([0.2, 1.0, 3.0]), ignore_index=IGNORED_CLASS)
    torch.testing.assert_close(found, expected)


def test_dice_equals_the_overlap_of_sets_for_certain_predictions() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [1, 1, IGNORED_CLASS, IGNORED_CLASS]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [1, 1, 0, 2]]])
    logits = 100.0 * F.one_hot(predicted, 3).permute(0, 3, 1, 2)
    found = dice_loss(logits, truth)  # classes 0 and 1 occur: 2*1/(1+2) and 2*4/(5+4)
    assert found.item() == pytest.approx(1 - (2 / 3 + 8 / 9) / 2)
    weighted = dice_loss(logits, truth, torch.tensor([1.0, 3.0, 9.0]))
    assert weighted.item() == pytest.approx(1 - (2 / 3 + 3 * 8 / 9) / 4)


@pytest.mark.parametrize(("cross_entropy_weight", "dice_weight"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_losses_are_summed_by_weight_and_zero_without_counted_pixels(
    cross_entropy_weight: float, dice_weight: float
) -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randint(3, (2, 4, 4))
    loss = SegmentationLoss(cross_entropy_weight, dice_weight)
    expected = cross_entropy_weight * F.cross_entropy(logits, mask) + dice_weight * dice_loss(logits, mask)
    torch.testing.assert_close(loss(logits, mask), expected)
    nothing = loss(logits, torch.full_like(mask, IGNORED_CLASS))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and not logits.grad.any()


def pixelwise(images: Tensor) -> Tensor:
    """Logits that depend on each pixel alone: the channels themselves."""
    return images


def random_images(*sizes: tuple[int, int]) -> SegmentationBatch:
    generator = torch.Generator().manual_seed(0)
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    images = torch.zeros(len(sizes), 3, height, width)
    for row, (rows, columns) in enumerate(sizes):
        images[row, :, :rows, :columns] = torch.randn(3, rows, columns, generator=generator)
    return batch_of([torch.zeros(size, dtype=torch.int64) for size in sizes], images)


@pytest.mark.parametrize(
    "inference",
    [Inference(), Inference(window=4), Inference(window=4, stride=3), Inference(window=5, stride=5, flip=True)],
    ids=str,
)
def test_every_way_to_look_gives_the_classes_of_pixelwise_scores(inference: Inference) -> None:
    batch = random_images((9, 7), (9, 7), (3, 8))
    for index, found in enumerate(inference.class_maps(pixelwise, batch)):
        height, width = batch["valid_size"][index].tolist()
        assert found.dtype == torch.uint8
        assert torch.equal(found.long(), batch["image"][index, :, :height, :width].argmax(0))


def test_scores_are_brought_to_the_original_size_before_the_choice() -> None:
    batch = random_images((6, 5))
    batch["original_size"] = torch.tensor([[12, 9]])
    (found,) = Inference().class_maps(pixelwise, batch)
    expected = F.interpolate(batch["image"], (12, 9), mode="bilinear")[0].argmax(0)
    assert torch.equal(found.long(), expected)


def test_scales_and_mirror_images_average_probabilities() -> None:
    batch = random_images((8, 8))

    def directed(images: Tensor) -> Tensor:
        """Not symmetric, and dependent on the size."""
        return images * torch.linspace(1, 3, images.shape[-1]) * images.shape[-1]

    (found,) = Inference(scales=(1.0, 0.5), flip=True).class_maps(directed, batch)
    image, total = batch["image"], torch.zeros(1, 3, 8, 8)
    for scaled in (image, F.interpolate(image, (4, 4), mode="bilinear")):
        for logits in (directed(scaled), directed(scaled.flip(-1)).flip(-1)):
            total += F.interpolate(logits, (8, 8), mode="bilinear").softmax(1)
    assert torch.equal(found.long(), total[0].argmax(0))


@pytest.mark.parametrize("length", range(1, 14))
def test_windows_cover_a_side_and_stay_inside(length: int) -> None:
    starts = window_starts(length, window=5, stride=3)
    covered = {place for start in starts for place in range(start, start + 5)}
    assert covered >= set(range(length)) and (length < 5 or max(covered) == length - 1)
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    "build",
    [
        lambda: SegmentationLoss(0.0, 0.0),
        lambda: SegmentationLoss(dice_weight=-1.0),
        lambda: SegmentationLoss(class_weights=[1.0, -1.0]),
        lambda: Inference(window=0),
        lambda: Inference(stride=3),
        lambda: Inference(window=4, stride=5),
        lambda: Inference(scales=()),
        lambda: Inference(scales=(0.0,)),
    ],
)
def test_numbers_out_of_range_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(InputError) as error:
        build()
    assert "\n" not in str(error.value)


BACKBONES: dict[str, Callable[[], VisionBackbone]] = {
    "vim": lambda: Vim(image_size=16, patch_size=4, width=16, depth=1, d_state=2),
    "vim_overlapping": lambda: Vim(image_size=16, patch_size=4, stride=2, width=16, depth=1, d_state=2),
    "vmamba": lambda: VMamba(depths=(1, 1, 1), widths=(8, 12, 16)),
    "vmamba_v0": lambda: VMamba("v0", depths=(1, 1), widths=(8, 16), d_state=2, ssm_ratio=2.0, mlp_ratio=0.0),
    "mambavision": lambda: MambaVision(depths=(1, 1, 2), width=8, num_heads=(2, 4), window_sizes=(3, 2), d_state=2),
    "mambaout": lambda: MambaOut(depths=(1, 1), widths=(8, 16), kernel_size=3),
    "mambaout_with_ssm": lambda: MambaOut(depths=(1, 1), widths=(8, 12), kernel_size=3, ssm=True, d_state=2),
    "local_vim": lambda: LocalVim(16, 4, 16, (("rows", "window_2"),), d_state=2),
    "local_vmamba": lambda: LocalVMamba((1, 1), (8, 16), (("rows", "window_2"), ("columns", "window_2")), 2, 2),
    "mamba_yolo": lambda: MambaYOLO(depths=(1, 1), widths=(8, 16), d_state=2),
    "vit": lambda: ViT(image_size=16, patch_size=4, width=16, depth=1, num_heads=2),
    "swin": lambda: Swin(depths=(2, 1), width=8, num_heads=(2, 4), window_size=3),
    "convnext": lambda: ConvNeXt(depths=(1, 1), widths=(8, 16), layer_scale=0.5),
    "mamba_on_images": lambda: SequenceOnImages(Mamba(16, 1, d_state=2), 16, 4),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_trains_a_step_and_evaluates(name: str) -> None:
    """Images of two sizes, neither a multiple of the strides, padded into one batch."""
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    strides = [4, 8, 16] if name in ("vim", "vit", "local_vim", "mamba_on_images") else None
    task = SemanticSegmentation(
        backbone, num_classes=3, head=partial(UperNetHead, channels=8), strides=strides, auxiliary_weight=0.4
    )
    batch = random_images((18, 14), (13, 15))
    for mask in batch["mask"]:
        mask[2:6, 2:6] = 1
    optimizer = torch.optim.SGD(task.parameters(), lr=0.01)
    losses = task.training_losses(batch)
    assert set(losses) == {"segmentation", "auxiliary"}
    torch.stack(list(losses.values())).sum().backward()
    assert [key for key, parameter in task.named_parameters() if parameter.grad is None] == []
    optimizer.step()
    task.eval()
    with torch.no_grad():
        task.val_metrics.update(task.predictions(batch), batch)
    values = task.val_metrics.compute()
    assert 0 <= values["mIoU"] <= 1 and task.val_metrics.confusion.sum() == 18 * 14 + 13 * 15


@torch.no_grad()
def test_a_prediction_does_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(0)
    task = SemanticSegmentation(MambaOut(depths=(1, 1), widths=(8, 16)), num_classes=5).eval()
    batch = random_images((18, 14), (13, 15))
    alone = random_images((13, 15))
    alone["image"] = batch["image"][1:, :, :13, :15]
    assert torch.equal(task.predictions(batch)[1], task.predictions(alone)[0])


@pytest.mark.parametrize("head", [LightFPNHead, partial(UperNetHead, channels=32)], ids=["light", "upernet"])
def test_heads_score_each_pixel_of_the_finest_map(head: SegmentationHeadFactory) -> None:
    info = MambaOut(depths=(1, 1), widths=(8, 16)).feature_info
    scores = head(info, 3)([torch.randn(2, 8, 9, 7), torch.randn(2, 16, 5, 4)])
    assert scores.shape == (2, 3, 9, 7)


def enlarged(x: Tensor, to: Tensor) -> Tensor:
    return F.interpolate(x, to.shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def test_heads_merge_maps_as_published() -> None:
    """Kirillov et al. 2019 with one convolution of the sum, and Xiao et al. 2018, figure 4, from coarse to fine."""
    info = MambaOut(depths=(1, 1, 1), widths=(8, 12, 16)).feature_info
    fine, middle, coarse = maps = [torch.randn(2, info[i].channels, 12 // 2**i, 8 // 2**i) for i in range(3)]
    light = LightFPNHead(info, 3, channels=8).eval()
    (a, b, c), fuse = light.laterals, light.fuse
    total = a(fine) + enlarged(b(middle) + enlarged(c(coarse), middle), fine)
    torch.testing.assert_close(light(maps), light.classifier(fuse(total)))

    upernet = UperNetHead(info, 3, channels=8).eval()
    pooled = [F.adaptive_avg_pool2d(coarse, size) for size in (1, 2, 3, 6)]
    pooled = [enlarged(layer(x), coarse) for layer, x in zip(upernet.pooling.pooled, pooled, strict=True)]
    top = upernet.pooling.fuse(torch.cat([coarse, *pooled], dim=1))
    second = upernet.laterals[1](middle) + enlarged(top, middle)
    first = upernet.laterals[0](fine) + enlarged(second, fine)
    levels = [upernet.smoothing[0](first), enlarged(upernet.smoothing[1](second), fine), enlarged(top, fine)]
    torch.testing.assert_close(upernet(maps), upernet.classifier(upernet.fuse(torch.cat(levels, dim=1))))


def test_class_weights_may_be_small_or_zero() -> None:
    logits, mask = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    assert SegmentationLoss(class_weights=[0.0, 0.5])(logits, mask).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("head", [LightFPNHead, partial(UperNetHead, channels=32)], ids=["light", "upernet"])
def test_heads_overfit_one_image(head: SegmentationHeadFactory) -> None:
    torch.manual_seed(0)
    task = SemanticSegmentation(MambaOut(depths=(1, 1), widths=(16, 32), stem_stride=2), num_classes=3, head=head)
    batch = random_images((16, 16))
    batch["mask"][0, 4:12, 4:12] = 1
    batch["mask"][0, :2] = IGNORED_CLASS
    batch["original_mask"] = [batch["mask"][0]]
    batch["image"][0, :, 4:12, 4:12] += 2
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        task.training_losses(batch)["segmentation"].backward()
        optimizer.step()
    task.eval()
    metrics = task.objective.new_metrics()
    with torch.no_grad():
        metrics.update(task.predictions(batch), batch)
    assert metrics.compute()["mIoU"] > 0.9


def test_published_size_of_upernet_on_vmamba() -> None:
    """62 M parameters are published for VMamba-T with UperNet on ADE20K; norms per map and GroupNorm add none to it."""
    with torch.device("meta"):
        task = SemanticSegmentation(
            from_variant("vmamba_tiny_s1l8"), num_classes=150, head=UperNetHead, auxiliary_weight=0.4
        )
    assert round(sum(parameter.numel() for parameter in task.parameters()) / 1e6) == 62


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 300}, "num_classes is 300"),
        ({"class_names": ["a"]}, "class_names has 1 entries for 3 classes"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight is -1.0"),
        ({"loss": SegmentationLoss(class_weights=[1.0, 2.0])}, "2 class_weights for 3 classes"),
        ({"head": partial(UperNetHead, channels=0)}, "channels of the segmentation head is 0"),
        ({"head": partial(LightFPNHead, dropout=1.0)}, "dropout of the segmentation head is 1.0"),
        ({"backbone": Mamba(width=8, depth=1)}, "Mamba is not a vision backbone"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    arguments = {"backbone": MambaOut(depths=(1,), widths=(16,)), "num_classes": 3, **options}
    with pytest.raises(InputError, match=f"^{message}") as caught:
        SemanticSegmentation(**arguments)
    assert "\n" not in str(caught.value)

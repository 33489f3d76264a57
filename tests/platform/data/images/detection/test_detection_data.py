"""Boxes and masks from COCO's and VOC's files and from `datasets`, the bad ones among them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mambarium.errors import InputError
from mambarium.platform.data import CocoDetection, HubDetection, Mosaic, VocDetection
from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.detection.detection_samples import DetectionSample
from mambarium.tasks.detection.average_precision import DetectionMetrics
from mambarium.tasks.detection.detector import Detections

SIZE = (40, 30)  # width, height


def save_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", SIZE, (20 * number, 100, 50)).save(folder / name)


def coco_content() -> dict[str, Any]:
    square = [[10, 5, 20, 5, 20, 15, 10, 15]]
    runs = {"size": [30, 40], "counts": [0, 60, 1140]}
    return {
        "images": [{"id": 100 * i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(4)],
        "categories": [{"id": 90, "name": "last"}, {"id": 3, "name": "first"}, {"id": 17, "name": "middle"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 90, "bbox": [10, 5, 10, 10], "area": 99.5, "segmentation": square},
            {"id": 2, "image_id": 0, "category_id": 3, "bbox": [0, 0, 2, 30], "iscrowd": 1, "segmentation": runs},
            {"id": 3, "image_id": 100, "category_id": 17, "bbox": [35, 20, 20, 5], "segmentation": square},
            {"id": 4, "image_id": 100, "category_id": 17, "bbox": [5, 5, 0, 5], "segmentation": square},
            {"id": 5, "image_id": 100, "category_id": 17, "bbox": [50, 5, 5, 5], "segmentation": square},
            {"id": 6, "image_id": 200, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1, "segmentation": runs},
            {"id": 7, "image_id": 777, "category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": square},
        ],
    }


MakeCoco = Callable[..., CocoDetection]


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """Makes a data module of a training file, and of the same images and annotations for validation."""

    def make(content: dict[str, Any] | None = None, **arguments: Any) -> CocoDetection:
        save_images(tmp_path / "images", [f"{i}.png" for i in range(4)])
        text = json.dumps(coco_content() if content is None else content)
        for name in ("train.json", "val.json"):
            (tmp_path / name).write_text(text)
        names = {"train_images": "images", "val_images": "images"}
        names |= {"train_annotations": "train.json", "val_annotations": "val.json"}
        return CocoDetection(str(tmp_path), **{"short_side": 30, "batch_size": 2, **names, **arguments})

    return make


def test_coco_is_read_and_cleaned(make_coco: MakeCoco, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_coco(masks=True)
    assert data.class_names == ["first", "middle", "last"] and data.category_ids == [3, 17, 90]
    assert data.num_classes == 3 and data.class_frequencies is None
    assert len(data.training_samples()) == 2  # of one image only a crowd is left, one has nothing
    assert len(data.validation_samples()) == 4
    told = capsys.readouterr().err.splitlines()
    assert sum("1 annotations of images that it does not list left out" in line for line in told) == 2
    cleaned = "1 boxes clipped to their image, 1 boxes of zero area left out, 1 boxes outside their image left out"
    assert sum(line.endswith(cleaned) for line in told) == 2
    assert any("left out 2 of 4 training images" in line for line in told)
    samples = [data.validation_samples()[(0, index)] for index in range(4)]
    assert [sample["image_id"] for sample in samples] == [0, 100, 200, 300]
    assert [len(sample["labels"]) for sample in samples] == [2, 1, 1, 0]
    first = samples[0]
    assert first["boxes"].tolist() == [[10, 5, 20, 15], [0, 0, 2, 30]]
    assert first["labels"].tolist() == [2, 0] and first["crowd"].tolist() == [False, True]
    assert first["area"].tolist() == [99.5, 60]
    masks = first["masks"].as_subclass(Tensor)
    assert masks[0, 5:15, 10:20].all() and masks[0].sum() == 100
    assert masks[1, :, :2].all() and masks[1].sum() == 60
    assert samples[1]["boxes"].tolist() == [[35, 20, 40, 25]]
    assert samples[3]["masks"].shape == (0, 30, 40) and samples[3]["boxes"].shape == (0, 4)


def test_a_batch_of_two_sizes(make_coco: MakeCoco) -> None:
    data = make_coco(masks=True, short_side=60, long_side=70, size_multiple=32)
    sample: DetectionSample = data.validation_samples()[(0, 0)]
    assert sample["image"].shape == (3, 53, 70) and sample["original_size"] == (30, 40)
    other = make_coco(masks=True, short_side=30).validation_samples()[(0, 1)]
    batch = data.collate([sample, other])
    assert batch["image"].shape == (2, 3, 64, 96)
    assert batch["valid_size"].tolist() == [[53, 70], [30, 40]]
    assert batch["original_size"].tolist() == [[30, 40], [30, 40]] and batch["image_id"].tolist() == [0, 100]
    assert not batch["image"][0, :, 53:].any() and not batch["image"][1, :, :, 40:].any()
    assert batch["masks"] is not None and [mask.shape for mask in batch["masks"]] == [(2, 64, 96), (1, 64, 96)]
    scale = torch.tensor([70 / 40, 53 / 30, 70 / 40, 53 / 30])
    assert torch.allclose(batch["boxes"][0], torch.tensor([[10.0, 5, 20, 15], [0, 0, 2, 30]]) * scale)
    assert batch["area"][0].tolist() == [99.5, 60]  # of the original image
    assert make_coco().collate([make_coco().validation_samples()[(0, 0)]])["masks"] is None


def test_annotations_given_back_as_predictions_are_perfect(make_coco: MakeCoco) -> None:
    """Boxes, polygons and a crowd's run lengths, at twice their size in the batch."""
    content = coco_content()
    triangle, parts = [[4, 6, 24, 6, 4, 22]], [[30, 0, 35, 0, 35, 10, 30, 10], [30, 20, 35, 20, 35, 30, 30, 30]]
    content["annotations"][2:] = [
        {"id": 3, "image_id": 100, "category_id": 3, "bbox": [4, 6, 20, 16], "segmentation": triangle},
        {"id": 4, "image_id": 100, "category_id": 17, "bbox": [30, 0, 5, 30], "segmentation": parts},
    ]
    data = make_coco(content, masks=True, short_side=60)
    samples = data.validation_samples()
    batch = data.collate([samples[(0, index)] for index in range(len(samples))])
    assert batch["masks"] is not None and batch["valid_size"].tolist() == [[60, 80]] * 4
    found_boxes, found_masks = [], []
    for boxes, labels, masks in zip(batch["boxes"], batch["labels"], batch["masks"], strict=True):
        scores = torch.ones(len(labels))
        found_boxes.append(Detections(boxes / 2, scores, labels))
        whole_image = torch.tensor([[0.0, 0.0, 40.0, 30.0]]).expand(len(labels), 4)
        found_masks.append(Detections(whole_image, scores, labels, masks[:, :60, :80].float()))
    for found, kind in ((found_boxes, ""), (found_masks, "mask_")):
        metrics = DetectionMetrics(data.class_names, masks=kind == "mask_")
        metrics.update(found, batch)
        values = metrics.compute()
        for figure in ("AP", "AP75", "AP_class/first", "AP_class/middle", "AP_class/last"):
            assert values[kind + figure] == 1.0


def test_lvis_frequencies_and_addresses(make_coco: MakeCoco) -> None:
    content = coco_content()
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    for image in content["images"]:
        image["coco_url"] = f"http://host/images/{image.pop('file_name')}"
    data = make_coco(content, train_images="", val_images="")
    assert data.class_frequencies == ["c", "f", "r"]
    assert len(data.validation_samples()) == 4
    content["categories"][1]["frequency"] = "x"
    with pytest.raises(InputError, match=r"train\.json: categories\[1\]\.frequency: .*'\^\[rcf\]\$'; found 'x'"):
        _ = make_coco(content).class_frequencies


def test_lists_of_checked_categories_are_those_of_all_images(make_coco: MakeCoco) -> None:
    content = coco_content()
    for image in content["images"]:
        image["neg_category_ids"] = [17]
    samples = make_coco(content).validation_samples()
    assert [samples[(0, index)]["negative_classes"] for index in range(4)] == [[1]] * 4
    content["images"][2]["not_exhaustive_category_ids"] = [3]
    with pytest.raises(
        InputError, match=r"train\.json: image 0 has no 'not_exhaustive_category_ids', which other images"
    ):
        make_coco(content).training_samples()


def without(key: str, *place: Any) -> dict[str, Any]:
    content = coco_content()
    record = content
    for step in place:
        record = record[step]
    del record[key]
    return content


def changed(value: Any, *place: Any) -> dict[str, Any]:
    content = coco_content()
    record = content
    for step in place[:-1]:
        record = record[step]
    record[place[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("categories"), r"train\.json: object missing required field `categories`; found \{"),
        (
            without("name", "categories", 1),
            r"train\.json: categories\[1\]: object missing required field `name`; found \{'id",
        ),
        (changed(" ", "categories", 1, "name"), r"categories\[1\]\.name: expected `str` matching .*; found ' '"),
        (without("file_name", "images", 2), r"train\.json: images\[2\] has neither file_name nor coco_url"),
        (
            changed("1.png", "images", 3, "file_name"),
            r"images\[3\]\.file_name: found '.*1\.png', which images\[1\] has",
        ),
        (without("bbox", "annotations", 3), r"annotations\[3\]: object missing required field `bbox`; found \{"),
        (
            changed(5, "annotations", 0, "category_id"),
            r"annotations\[0\]\.category_id: found 5, which is none of the 3",
        ),
        (
            changed([1, 2, 3], "annotations", 0, "bbox"),
            r"annotations\[0\]\.bbox: found \(1\.0, 2\.0, 3\.0\), exp.*width",
        ),
        (changed([1, 2, 3, "x"], "annotations", 0, "bbox"), r"annotations\[0\]\.bbox\[3\]: .*`float`, .*; found 'x'"),
        (changed([1, 2, 3, float("nan")], "annotations", 0, "bbox"), r"annotations\[0\]\.bbox\[3\]: .*; found 'NaN'"),
        (changed(0, "images", 1, "id"), r"images\[1\]\.id: found 0, which images\[0\] has already"),
        (changed(None, "images", 1), r"images\[1\]: expected `object`, got `null`; found None"),
        (changed([1], "annotations", 1), r"annotations\[1\]: expected `object`, got `array`; found \[1\]"),
        (changed("wide", "images", 1, "width"), r"images\[1\]\.width: expected `int \| null`, got `str`; found 'wide'"),
        (changed(10.5, "images", 1, "height"), r"images\[1\]\.height: expected `int \| null`, got `float`; found 10.5"),
        (changed([0], "annotations", 1, "image_id"), r"annotations\[1\]\.image_id: expected `int`.*; found \[0\]"),
        (changed("big", "annotations", 0, "area"), r"annotations\[0\]\.area: expected `float \| null`.*; found 'big'"),
        (changed(-1, "annotations", 0, "area"), r"annotations\[0\]\.area: expected `float` >= 0.*; found -1"),
        (
            changed(float("nan"), "annotations", 0, "area"),
            r"annotations\[0\]\.area: expected `float` >= 0.*; found 'NaN'",
        ),
        (changed(10**400, "annotations", 0, "area"), r"annotations\[0\]\.area: number out of range; found 10+"),
        (
            changed(10**30, "annotations", 0, "image_id"),
            r"annotations\[0\]\.image_id: expected `int` <= 9223.*; found 10+",
        ),
        (changed(3, "annotations", 0, "iscrowd"), r"annotations\[0\]\.iscrowd: expected `int` <= 1; found 3"),
        (changed([3], "images", 3, "neg_category_ids"), r"image 0 has no 'neg_category_ids'.*to all images or to none"),
        (changed([3], "images", 0, "not_exhaustive_category_ids"), r"image 0 has no 'neg_category_ids'"),
        (changed("a", "categories", 2, "id"), r"categories\[2\]\.id: expected `int`, got `str`; found 'a'"),
        (changed(3, "categories", 2, "id"), r"categories\[2\]\.id: found 3, which categories\[1\] has already"),
        (changed("gone.png", "images", 1, "file_name"), r"1 of 4 files are missing .*gone\.png"),
        (
            changed(7, "images", 3, "neg_category_ids"),
            r"images\[3\]\.neg_category_ids: expected `array \| null`, .*found 7",
        ),
        (changed([], "images"), r"train\.json: lists no images"),
    ],
)
def test_annotation_files_that_lack_something(make_coco: MakeCoco, content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_coco(content).training_samples()
    assert "\n" not in str(caught.value)


def test_categories_that_mean_something_else_in_validation_are_refused(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco()
    (tmp_path / "other.json").write_text(json.dumps(changed("cat", "categories", 1, "name")))
    with pytest.raises(InputError, match=r"other\.json: category 3 is 'cat', in the training file it is 'first'"):
        make_coco(val_annotations="other.json").validation_samples()


def test_polygons_of_two_corners_are_no_masks(make_coco: MakeCoco, capsys: pytest.CaptureFixture[str]) -> None:
    content = changed([[1, 1, 9, 9]], "annotations", 0, "segmentation")
    content["annotations"][2]["segmentation"].append([3, 3, 4, 4])
    samples = make_coco(content, masks=True).validation_samples()
    assert samples[(0, 0)]["crowd"].tolist() == [True] and samples[(0, 1)]["masks"].any()
    assert "1 objects without a polygon left out" in capsys.readouterr().err
    assert len(make_coco(content).validation_samples()[(0, 0)]["labels"]) == 2


def test_empty_masks_are_counted(make_coco: MakeCoco, capsys: pytest.CaptureFixture[str]) -> None:
    content = changed([[41, 1, 60, 1, 60, 20, 41, 20]], "annotations", 0, "segmentation")
    content["annotations"][2]["segmentation"] = {"size": [30, 40], "counts": [1200]}
    content["annotations"].append(
        {"id": 8, "image_id": 0, "category_id": 17, "bbox": [5, 5, 9, 9], "segmentation": [[5, 5, 14, 5, 14, 14]]}
    )
    data = make_coco(content, masks=True, train_transforms=[])
    assert data.training_samples()[(0, 0)]["labels"].tolist() == [0, 1]
    assert data.training_samples()[(0, 1)]["labels"].tolist() == []
    assert len(data.validation_samples()[(0, 0)]["labels"]) == 3
    told = capsys.readouterr().err.splitlines()
    assert sum("2 objects with an empty mask left out of training" in line for line in told) == 2  # of both files


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [30, 40], "counts": "oooooooooooooooooooo0"},
        {"size": [30, 40], "counts": [10**30]},
        [[0, 0, 1e13, 0, 1e13, 1e13]],
        [[0, 0, 1e300, 0, 1e300, 1e300]],
    ],
)
def test_masks_of_absurd_numbers_are_passed_over(
    make_coco: MakeCoco, segmentation: object, capsys: pytest.CaptureFixture[str]
) -> None:
    content = changed(segmentation, "annotations", 0, "segmentation")
    with pytest.raises(SampleError, match=r"0\.png: object 1 has a .*; mend or remove it") as caught:
        make_coco(content, masks=True).validation_samples()[(0, 0)]
    assert "\n" not in str(caught.value)
    assert len(make_coco(content, masks=True, broken="skip").validation_samples()) == 3
    assert "skipped broken sample" in capsys.readouterr().err


def test_outlines_and_masks_that_no_memory_holds_are_refused(
    make_coco: MakeCoco, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = [[0, 0, 3999, 3999] * 300]
    with pytest.raises(SampleError, match=r"object 1 has a polygon with an outline of more than 838860 pixels; mend"):
        make_coco(changed(far, "annotations", 0, "segmentation"), masks=True).validation_samples()[(0, 0)]
    monkeypatch.setattr("mambarium.platform.data.images.detection.objects.MASK_BYTES", 2 * 40 * 30 - 1)
    with pytest.raises(SampleError, match=r"0\.png: the masks of its 2 objects take more than 0 GiB: cut the image"):
        make_coco(masks=True).validation_samples()[(0, 0)]


def test_annotations_nested_without_end_are_named(make_coco: MakeCoco, tmp_path: Path) -> None:
    make_coco()
    (tmp_path / "train.json").write_text("[" * 10**6)
    with pytest.raises(InputError, match=r"train\.json: not a JSON file") as caught:
        _ = make_coco_again(tmp_path).class_names
    assert "\n" not in str(caught.value)


def make_coco_again(folder: Path) -> CocoDetection:
    return CocoDetection(str(folder), train_annotations="train.json", val_annotations="val.json")


def turned_coco(folder: Path, orientation: int, size: tuple[int, int]) -> CocoDetection:
    """A picture of `size`, stored so that it has to be turned, with a white object that is marked on what is shown."""
    shown = Image.new("L", size)
    shown.paste(255, (5, 3, 15, 9))
    ways = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.mkdir(exist_ok=True)
    shown.transpose(ways[orientation]).save(folder / "a.png", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [5, 3, 10, 6],
                "segmentation": [[5, 3, 15, 3, 15, 9, 5, 9]],
            }
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    files = {"train_images": "", "val_images": "", "train_annotations": "a.json", "val_annotations": "a.json"}
    return CocoDetection(str(folder), **files, masks=True, batch_size=1, short_side=size[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(("orientation", "size"), [(3, (40, 30)), (6, (40, 40)), (6, (40, 30))])
def test_boxes_and_masks_lie_on_what_is_shown(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    data = turned_coco(tmp_path, orientation, size)
    sample = data.splits.val.read((0, 0))
    white = sample["image"][0].as_subclass(Tensor) == 255
    assert torch.equal(sample["masks"][0].as_subclass(Tensor), white) and white.sum() == 60
    x1, y1, x2, y2 = sample["boxes"][0].int().tolist()
    assert white[y1:y2, x1:x2].all() and sample["original_size"] == size[::-1]
    data.predict_path = str(tmp_path / "a.png")
    assert next(iter(data.predict_dataloader()))["original_size"].tolist() == [list(size[::-1])]


def test_annotations_of_an_image_as_it_lies_are_refused(tmp_path: Path) -> None:
    data = turned_coco(tmp_path, 6, (40, 30))
    text = (tmp_path / "a.json").read_text().replace('"width": 40, "height": 30', '"width": 30, "height": 40')
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        SampleError, match=r"has 40 x 30 pixels .* made for 30 x 40, and images are turned as their EXIF"
    ):
        data.splits.val.read((0, 0))


def test_test_images_without_annotations_are_refused(make_coco: MakeCoco) -> None:
    with pytest.raises(InputError, match=r"data\.test_images is 'images' without .*; set data\.test_annotations too"):
        make_coco(test_images="images")
    data = make_coco(test_images="images", test_annotations="train.json")
    assert len(data.test_samples()) == 4 and data.test_samples() is not data.validation_samples()


@pytest.mark.parametrize(
    "others", [(), (v2.Compose([v2.SanitizeBoundingBoxes(), v2.RandomHorizontalFlip(0.0)]),), (Mosaic(10),)]
)
@pytest.mark.parametrize("masks", [False, True])
def test_objects_are_removed_with_all_that_belongs_to_them(
    make_coco: MakeCoco, others: tuple[v2.Transform, ...], masks: bool
) -> None:
    content = coco_content()
    content["annotations"][:2] = reversed(content["annotations"][:2])  # the crowd, which is cropped away, comes first
    content["annotations"] = content["annotations"][:2]
    transforms = [v2.CenterCrop(10), v2.SanitizeBoundingBoxes(), *others]
    sample = make_coco(content, train_transforms=transforms, masks=masks, batch_size=1).training_samples()[(0, 0)]
    count = len(sample["boxes"])
    assert count >= 1 if others and isinstance(others[0], Mosaic) else count == 1
    assert sample["labels"].tolist() == [2] * count and sample["crowd"].tolist() == [False] * count
    assert sample["area"].tolist() == [99.5] * count
    assert not masks or sample["masks"].flatten(1).any(dim=1).sum() == count
    assert set(sample) <= set(DetectionSample.__annotations__)


def test_objects_removed_in_part_are_refused(make_coco: MakeCoco) -> None:
    transforms = [v2.CenterCrop(10), v2.SanitizeBoundingBoxes(labels_getter=None)]
    with pytest.raises(SampleError, match=r"which leaves 1 boxes, 2 labels, 2 crowd, 2 area; take the transform out"):
        make_coco(train_transforms=transforms).training_samples()[(0, 0)]


def test_a_wrong_size_and_a_wrong_mask_are_named(make_coco: MakeCoco) -> None:
    data = make_coco(changed(50, "images", 0, "width"))
    with pytest.raises(InputError, match=r"0\.png: has 40 x 30 pixels but its annotations were made for 50 x 30"):
        data.validation_samples()[(0, 0)]
    data = make_coco(changed({"size": [9, 9], "counts": [81]}, "annotations", 0, "segmentation"), masks=True)
    with pytest.raises(InputError, match=r"0\.png: object 1 has a mask of 9 x 9 pixels on an image of 40 x 30"):
        data.validation_samples()[(0, 0)]


def test_broken_images_are_passed_over(make_coco: MakeCoco, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_coco()
    content = coco_content()
    content["images"].append({"id": 5, "file_name": "gone.png", "width": 40, "height": 30})
    data = make_coco(content, broken="skip", train_transforms=[])
    (tmp_path / "images" / "0.png").write_bytes(b"no image")
    assert len(data.validation_samples()) == 3
    assert len(data.training_samples()) == 2
    replaced, next_one = (data.training_samples()[(0, index)] for index in range(2))
    assert replaced["image_id"] == next_one["image_id"] == 100
    told = capsys.readouterr().err
    assert "left out 1 of 5 records whose files are missing" in told and "gone.png" in told
    assert "1 of 4 evaluation samples are broken and left out" in told
    assert "skipped broken sample 1:" in told and "0.png: not an image of a known format" in told


def voc_xml(name: str, objects: list[tuple[str, tuple[Any, ...], int]], width: str = "40") -> str:
    items = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for label, box, difficult in objects
    )
    return (
        f"<annotation><filename>{name}.jpg</filename><size><width>{width}</width><height>30</height></size>"
        f"{items}</annotation>"
    )


def make_voc(folder: Path, **xml: str) -> None:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    save_images(folder / "JPEGImages", [f"{name}.jpg" for name in xml])
    for name, text in xml.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    for part in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(xml) + "\n")


def test_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = [("dog", (1, 1, 40, 30), 0), ("cat", (11, 6, 20, 15), 1), ("cat", (7, 7, 7, 9), 0)]
    make_voc(tmp_path, a=voc_xml("a", objects), b=voc_xml("b", [("cat", (3, 3, 9, 9), 0)]))
    data = VocDetection(str(tmp_path), batch_size=2, train_transforms=[], short_side=30)
    assert data.class_names == ["cat", "dog"]
    sample = data.training_samples()[(0, 0)]
    assert sample["boxes"].tolist() == [[0, 0, 40, 30], [10, 5, 20, 15]]
    assert sample["labels"].tolist() == [1, 0] and sample["crowd"].tolist() == [False, True]
    assert "train.txt: 1 boxes of zero area left out" in capsys.readouterr().err
    assert data.test_samples() is data.validation_samples() and len(data.val_dataloader()) == 1


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", r"a\.xml: not a readable XML file"),
        ("<?xml version='1.0' encoding='gb2312'?><annotation/>", r"a\.xml: not a readable XML file \(multi-byte"),
        ("<?xml version='1.0' encoding='gbk'?><annotation/>", r"a\.xml: not a readable XML file \(multi-byte"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", r"a\.xml: not a readable XML file \(unknown"),
        (voc_xml("a", [], width="wide"), r"a\.xml: size\.width: expected `int`, got `str`; found 'wide'"),
        (
            "<annotation><object/></annotation>",
            r"a\.xml: object\[0\]: object missing required field `name`; found \{\}",
        ),
        (voc_xml("a", [("cat", (1, 1, 9, "x"), 0)]), r"a\.xml: object\[0\]\.bndbox\.ymax: .*`float`, .*; found 'x'"),
        (voc_xml("a", [("bird", (1, 1, 9, 9), 0)]), r"a\.xml: object\[0\] is 'bird', none of the classes cat, dog"),
    ],
)
def test_voc_files_that_lack_something(tmp_path: Path, xml: str, message: str) -> None:
    make_voc(tmp_path, a=xml)
    with pytest.raises(InputError, match=message):
        VocDetection(str(tmp_path), class_names=["cat", "dog"]).training_samples()
    with pytest.raises(InputError, match=r"other\.txt: no such list"):
        _ = VocDetection(str(tmp_path), train_list="other").class_names


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    make_voc(tmp_path, a=voc_xml("a", [("cat", (3, 3, 9, 9), 0)]))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes("grün\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.txt: not text in UTF-8 .*: store it as such") as caught:
        _ = VocDetection(str(tmp_path)).class_names
    assert "\n" not in str(caught.value)


def test_unreadable_annotations_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = voc_xml("a", [("cat", (3, 3, 9, 9), 0)])
    make_voc(tmp_path, a=whole, b="<annotation>", c=voc_xml("c", [], width="nan"), d=voc_xml("d", [], width="x"))
    data = VocDetection(str(tmp_path), broken="skip", batch_size=1)
    assert len(data.training_samples()) == len(data.validation_samples()) == 1
    told = capsys.readouterr().err
    assert "skipped broken annotation:" in told and "b.xml: not a readable XML file" in told
    assert "train.txt: left out 3 of 4 images whose annotations can't be read" in told
    (tmp_path / "Annotations" / "a.xml").write_text("")
    with pytest.raises(InputError, match="none of its annotations can be read"):
        _ = VocDetection(str(tmp_path), broken="skip").class_names


def hub_folder(folder: Path, first: dict[str, Any] | None = None) -> None:
    save_images(folder / "train", [f"{i}.png" for i in range(4)])
    rows = [{"bbox": [[2, 3, 10, 12]], "category": [i % 2], "area": [7.5]} for i in range(4)]
    rows[1] = {"bbox": [], "category": [], "area": []}
    rows[2] = {"bbox": [[0, 0, 60, 10], [5, 5, 3, 0]], "category": [1, 1], "area": [1.0, 2.0]}
    rows[0] = first or rows[0]
    lines = [json.dumps({"file_name": f"{i}.png", "objects": row}) for i, row in enumerate(rows)]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))


def test_boxes_of_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub_folder(tmp_path / "set")
    arguments: dict[str, Any] = {"name": "imagefolder", "data_dir": str(tmp_path / "set"), "short_side": 30}
    data = HubDetection(**arguments, val_fraction=0.25, batch_size=1, train_transforms=[v2.RandomHorizontalFlip(1.0)])
    assert data.num_classes == 2
    assert len(data.validation_samples()) == 1 and len(data.training_samples()) in (2, 3)
    assert "1 boxes clipped to their image, 1 boxes of zero area left out" in capsys.readouterr().err
    seen = [data.training_samples()[(0, i)] for i in range(len(data.training_samples()))]
    seen += [data.validation_samples()[(0, 0)]]
    boxes = {sample["image_id"]: sample["boxes"].tolist() for sample in seen}
    assert boxes[0] in ([[2, 3, 12, 15]], [[28, 3, 38, 15]])
    named = HubDetection(**arguments, class_names=["ant", "bee"], box_format="xyxy", val_split="train", batch_size=1)
    assert named.validation_samples()[(0, 0)]["boxes"].tolist() == [[2, 3, 10, 12]]
    assert named.validation_samples()[(0, 0)]["area"].tolist() == [7.5]


@pytest.mark.parametrize(
    ("first", "arguments", "message"),
    [
        (None, {"objects_column": "things"}, r"no column 'things'; it has .*data\.objects_column"),
        (None, {"box_key": "box"}, r"row 0: the objects have no 'box'.*data\.box_key"),
        (None, {"class_names": ["ant"]}, r"row \d: objects\[0\]\.category: found 1, none of the 1 classes"),
        (None, {"masks": True}, r"no 'segmentation'; set data\.masks to false"),
        (
            {"bbox": [[1, 2, 3]], "category": [0], "area": [1.0]},
            {},
            r"row 0: objects\[0\]\.bbox: expected `array` of length 4",
        ),
        (
            {"bbox": [[1, 2, 3, None]], "category": [0], "area": [1.0]},
            {},
            r"row 0: objects\[0\]\.bbox\[3\]: .*; found None",
        ),
        (
            {"bbox": [[1, 2, 3, 4]], "category": [None], "area": [1.0]},
            {},
            r"\.category: expected `int \| str`, got `null`",
        ),
    ],
)
def test_rows_that_lack_something(
    tmp_path: Path, first: dict[str, Any] | None, arguments: dict[str, Any], message: str
) -> None:
    hub_folder(tmp_path / "set", first)
    with pytest.raises(InputError, match=message):
        _ = HubDetection(name="imagefolder", data_dir=str(tmp_path / "set"), val_split="train", **arguments).splits


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 0, 0, 0], r"row 0: column 'objects' holds no objects"),
        ([None, 5, 0, 0], r"row 1: column 'objects' holds no objects"),
        ([[[1, 2, 3, 4]]] * 4, r"row 0: column 'objects' holds no objects"),
        (
            [{"bbox": [[1, 2, 3, 4]], "category": [0], "count": 1}] * 4,
            r"row 0: column 'objects' has 'count' 1, not a list with an entry for each object",
        ),
        (
            [{"bbox": [[1, 2, 3, 4]], "category": [0], "area": ["big"]}] * 4,
            r"row \d: objects\[0\]\.area: .*; found 'big'",
        ),
        (
            [{"bbox": [[1, 2, 3, 4]], "category": [0], "area": [-2.0]}] * 4,
            r"row \d: objects\[0\]\.area: .*; found -2.0",
        ),
    ],
)
def test_columns_that_hold_something_else(tmp_path: Path, rows: list[Any], message: str) -> None:
    hub_folder(tmp_path / "set")
    lines = [json.dumps({"file_name": f"{i}.png", "objects": row}) for i, row in enumerate(rows)]
    (tmp_path / "set" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message) as caught:
        _ = HubDetection(name="imagefolder", data_dir=str(tmp_path / "set"), val_split="train").splits
    assert "\n" not in str(caught.value)


def test_sizes_that_rows_leave_out_are_read_from_the_images(tmp_path: Path) -> None:
    hub_folder(tmp_path / "set")
    file = tmp_path / "set" / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    sizes: list[dict[str, int | None]] = [{"width": 40, "height": 30}, {"width": None, "height": None}]
    file.write_text("\n".join(json.dumps(row | sizes[number % 2]) for number, row in enumerate(rows)))
    data = HubDetection(name="imagefolder", data_dir=str(tmp_path / "set"), val_split="train", short_side=30)
    assert [data.validation_samples()[(0, index)]["original_size"] for index in range(4)] == [(30, 40)] * 4


@pytest.mark.parametrize("kind", ["text", "too large"])
def test_rows_whose_images_cannot_be_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_folder(tmp_path / "set")
    if kind == "text":
        (tmp_path / "set" / "train" / "3.png").write_bytes(b"no image")
    else:
        Image.new("RGB", (200, 200)).save(tmp_path / "set" / "train" / "3.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # twice as many are an error
    data = HubDetection(
        name="imagefolder", data_dir=str(tmp_path / "set"), val_split="train", short_side=30, broken="skip"
    )
    assert len(data.validation_samples()) == 3
    assert "left out an image whose size is not known: data set" in capsys.readouterr().err


def test_rows_without_objects_do_not_say_what_the_classes_are(tmp_path: Path) -> None:
    hub_folder(tmp_path / "set")
    file = tmp_path / "set" / "train" / "metadata.jsonl"
    empty = {"bbox": [], "category": [], "area": []}
    file.write_text("\n".join(json.dumps({"file_name": f"{i}.png", "objects": empty}) for i in range(4)))
    with pytest.raises(InputError, match=r"no object says what the classes are; set data\.class_names"):
        _ = HubDetection(name="imagefolder", data_dir=str(tmp_path / "set")).class_names

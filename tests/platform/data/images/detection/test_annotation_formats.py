"""Annotation files as tools write them, by their exporters' output or documentation: read rightly, or refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data import CocoDetection, HubDetection, VocDetection

IMAGES = {"a.jpg": (40, 30), "b c.jpg": (50, 20), "d.png": (32, 32)}


class Found(NamedTuple):
    """An object: class, corners, pixels of its mask, whether it is a crowd, area."""

    name: str
    box: Sequence[float]
    pixels: int | None = None
    crowd: bool = False
    area: float | None = None


def found_objects(data: CocoDetection | VocDetection | HubDetection) -> dict[int, list[Found]]:
    """The objects of each validation image by its number, with areas other than the box's."""
    found: dict[int, list[Found]] = {}
    for index in range(len(data.splits.val)):
        sample = data.splits.val.read((0, index))
        objects = found.setdefault(sample["image_id"], [])
        for number, box in enumerate(sample["boxes"].tolist()):
            pixels = int(sample["masks"][number].sum()) if "masks" in sample else None
            area, whole = float(sample["area"][number]), (box[2] - box[0]) * (box[3] - box[1])
            name, crowd = data.class_names[int(sample["labels"][number])], bool(sample["crowd"][number])
            objects.append(Found(name, box, pixels, crowd, None if area == whole else area))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for sub in ("images", "JPEGImages"):
        (tmp_path / sub).mkdir()
        for name, size in IMAGES.items():
            Image.new("RGB", size).save(tmp_path / sub / name)
    return tmp_path


def coco(folder: Path, content: Any, masks: bool = False) -> CocoDetection:
    encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "a.json").write_bytes(encoded)
    names = {"train_images": "images", "val_images": "images", "train_annotations": "a.json"}
    return CocoDetection(str(folder), val_annotations="a.json", masks=masks, batch_size=1, **names)


def voc(folder: Path, encoded: bytes, name: str = "a") -> VocDetection:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations" / f"{name}.xml").write_bytes(encoded)
    for part in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text(name)
    return VocDetection(str(folder), batch_size=1)


A, B = {"file_name": "a.jpg", "width": 40, "height": 30}, {"file_name": "b c.jpg", "width": 50, "height": 20}
CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "big dog"}]
CAT, DOG = Found("cat", [10, 5, 20, 17]), Found("big dog", [2.5, 3.25, 10.5, 12.75])
SQUARE, TRIANGLE = [10, 5, 20, 5, 20, 17, 10, 17], [2, 3, 10, 3, 10, 13]
MASKED = Found("cat", [10, 5, 20, 17], 120)
RUNS = [305, *[12, 18] * 9, 12, 613]
"""The columns 10 to 19, the rows 5 to 16 of them, of an image 30 high and 40 wide."""


def record(image: Any = 1, category: Any = 1, bbox: Any = (10, 5, 10, 12), **others: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, **others}


def plain(*annotations: dict[str, Any], images: Any = None, categories: Any = CLASSES) -> dict[str, Any]:
    images = [{"id": 1, **A}] if images is None else images
    return {"images": images, "annotations": list(annotations), "categories": categories}


def with_segmentation(segmentation: Any, **others: Any) -> dict[str, Any]:
    return plain(record(segmentation=segmentation, **others))


NUMBERS_AS_TEXT = plain(
    record("1", "2", ["2.5", "3.25", "8", "9.5"], area="76", iscrowd="0"),
    images=[{"id": "1", "file_name": "a.jpg", "width": "40", "height": "30.0"}],
    categories=[{"id": "1", "name": "cat"}, {"id": "2", "name": "big dog"}],
)
LVIS = {
    "images": [
        {"id": 1, "coco_url": "http://images.cocodataset.org/images/a.jpg", "width": 40, "height": 30}
        | {"neg_category_ids": [2], "not_exhaustive_category_ids": [1], "license": 4}
    ],
    "annotations": [record(id=9, area=120.0, segmentation=[SQUARE])],
    "categories": [
        {"id": 1, "name": "cat", "frequency": "f", "synset": "cat.n.01", "synonyms": ["cat"], "def": "a cat"},
        {"id": 2, "name": "big dog", "frequency": "r", "image_count": 3, "instance_count": 4},
    ],
}

COCO_FILES: dict[str, tuple[Any, bool, dict[int, list[Found]]]] = {
    "globox": (
        plain(
            record(1, 1, [10.0, 5.0, 10.0, 12.0], ignore=0, iscrowd=0, area=120.0, segmentation=[], id=0),
            record(2, 2, [20.0, 10.0, 15.0, 5.0], ignore=0, iscrowd=0, area=75.0, segmentation=[], id=1),
            images=[{"id": 1, **A}, {"id": 2, **B}],
            categories=[{"supercategory": "none", **category} for category in CLASSES],
        ),
        False,
        {1: [CAT], 2: [Found("big dog", [20, 10, 35, 15])]},
    ),
    "supervision": (
        {
            "info": {},
            "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
            **plain(
                record(id=1, area=120.0, segmentation=[[10, 5, 10, 17, 20, 17, 20, 5]], iscrowd=0),
                images=[{"id": 1, "license": 1, **A, "date_captured": "11/29/2026,22:12:06"}],
            ),
        },
        True,
        {1: [MASKED]},
    ),
    "pylabel": (
        plain(
            record(1, 2, [2.5, 3.25, 8, 9.5], segmented=None, area=76, iscrowd=0, pose=None, difficult=None),
            images=[{"id": 1, "folder": "images", "path": None, "depth": None, **A}],
        ),
        False,
        {1: [DOG]},
    ),
    "Label Studio": (
        plain(
            record(0, 1, [10.0, 6.0, 20.0, 12.0], segmentation=[], ignore=0, iscrowd=0, area=240.0),
            record(0, 0, [4.0, 3.0, 16.0, 15.0], segmentation=[[4.0, 3.0, 20.0, 3.0, 20.0, 18.0]], area=120.0),
            images=[{"width": 40, "height": 30, "id": 0, "file_name": "images/a.jpg"}],
            categories=[{"id": 0, "name": "big dog"}, {"id": 1, "name": "cat"}],
        ),
        False,
        {0: [Found("cat", [10, 6, 30, 18]), Found("big dog", [4, 3, 20, 18], area=120)]},
    ),
    "labelme2coco": (  # of a rectangle without width it writes an empty box
        plain(
            record(1, 0, [10.0, 5.0, 10.0, 12.0], iscrowd=0, segmentation=[], area=120),
            record(1, 0, [], iscrowd=0, segmentation=[], area=0),
            categories=[{"id": 0, "name": "cat", "supercategory": "cat"}],
        ),
        False,
        {1: [CAT]},
    ),
    "CVAT, boxes": (
        plain(
            record(id=1, segmentation=[], area=120.0, iscrowd=0, attributes={"occluded": False, "rotation": 0.0}),
            images=[{"id": 1, **A, "license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}],
        ),
        False,
        {1: [CAT]},
    ),
    "CVAT, masks": (
        plain(
            record(segmentation={"counts": RUNS, "size": [30, 40]}, area=120.0, iscrowd=1, attributes={}),
            record(1, 2, [10.0, 5.0, 10.0, 12.0], segmentation=[[float(number) for number in SQUARE]], iscrowd=0),
        ),
        True,
        {1: [MASKED._replace(crowd=True), Found("big dog", [10, 5, 20, 17], 120)]},
    ),
    "Roboflow": (
        plain(
            record(0, 1, [10, 5, 10, 12], id=0, area=120, segmentation=[], iscrowd=0),
            images=[{"id": 0, "license": 1, **A, "extra": {"name": "a.jpg"}, "date_captured": "2026-01-01T00:00:00"}],
            categories=[
                {"id": 0, "name": "animals", "supercategory": "none"},
                {"id": 1, "name": "cat", "supercategory": "animals"},
            ],
        ),
        False,
        {0: [CAT]},
    ),
    "VGG Image Annotator": (  # it doesn't know sizes of images that it has not shown, and writes one polygon flat
        plain(
            record("1", "1", segmentation=SQUARE, area=120, iscrowd=0, id="1"),
            images=[{"id": 1, "file_name": "a.jpg", "width": -1, "height": -1, "license": 0, "date_captured": ""}],
        ),
        True,
        {1: [MASKED]},
    ),
    "FiftyOne": (
        plain(
            record(segmentation={"counts": "a9<b000000000000000000cb0", "size": [30, 40]}, area=120.0, iscrowd=0),
            categories=[{**category, "supercategory": None} for category in CLASSES],
        ),
        True,
        {1: [MASKED]},
    ),
    "Datumaro": (
        plain(
            record(1, 1, [10.0, 5.0, 10.0, 12.0], segmentation=[], area=120.0, iscrowd=0, attributes={"z": 1}),
            images=[{"id": 1, **A, "file_name": "images\\a.jpg"}],
        ),
        False,
        {1: [CAT]},
    ),
    "LVIS": (LVIS, True, {1: [MASKED]}),
    "numbers as text": (NUMBERS_AS_TEXT, False, {1: [DOG]}),
    "UTF-8 with a mark": (json.dumps(plain(record())).encode("utf-8-sig"), False, {1: [CAT]}),
    "UTF-16": (json.dumps(plain(record())).encode("utf-16"), False, {1: [CAT]}),
    "numbers that pandas makes": (
        plain(record(1.0, 1.0, iscrowd=0.0, area=120.0, score=float("nan"))),
        False,
        {1: [CAT]},
    ),
    "no sizes, no area": (
        plain(record(iscrowd=True), record(2), images=[{"id": 1, "file_name": "a.jpg"}, {"id": 2, **B, "height": 0}]),
        False,
        {1: [CAT._replace(crowd=True)], 2: [CAT]},
    ),
    "polygons of pairs": (with_segmentation([[[10, 5], [20, 5], [20, 17], [10, 17]]]), True, {1: [MASKED]}),
    "a polygon of pairs": (with_segmentation([[10, 5], [20, 5], [20, 17], [10, 17]]), True, {1: [MASKED]}),
    "a polygon of texts": (with_segmentation([[str(number) for number in SQUARE]]), True, {1: [MASKED]}),
    "names with blanks around": (
        plain(record(), categories=[{"id": 1, "name": " cat\n"}, {"id": 2, "name": "big dog "}]),
        False,
        {1: [CAT]},
    ),
    "objects without a polygon": (
        plain(record(segmentation=None), record(segmentation=[[1, 1, 2, 2]]), record(segmentation=[SQUARE, []])),
        True,
        {1: [MASKED]},
    ),
}


@pytest.mark.parametrize("tool", COCO_FILES)
def test_coco_files_of_tools(folder: Path, tool: str) -> None:
    content, masks, expected = COCO_FILES[tool]
    data = coco(folder, content, masks)
    assert found_objects(data) == expected
    assert {name for objects in expected.values() for name, *_ in objects} <= set(data.class_names)
    if tool == "LVIS":
        sample = data.splits.val.read((0, 0))
        assert (sample["negative_classes"], sample["partial_classes"]) == ([1], [0])
        assert data.class_frequencies == ["f", "r"]
    if masks and not isinstance(content, bytes):
        mask = data.splits.val.read((0, 0))["masks"][0]
        expected_mask = torch.zeros(30, 40, dtype=torch.bool)
        expected_mask[5:17, 10:20] = True
        assert torch.equal(mask.as_subclass(torch.Tensor), expected_mask)


def voc_object(name: str = "cat", box: str = "", more: str = "") -> str:
    return f"<object><name>{name}</name>{more}<bndbox>{box or corners(11, 6, 20, 17)}</bndbox></object>"


def corners(*values: float | str) -> str:
    return "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True)
    )


SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"

VOC_FILES: dict[str, tuple[str, list[Found]]] = {
    "globox": (
        f"<annotation><filename>a.jpg</filename>{SIZE}{voc_object(box=corners('11.0', '6.5', '20.25', '17.0'))}"
        "</annotation>",
        [Found("cat", [10, 5.5, 20.25, 17])],
    ),
    "supervision": (
        "<?xml version='1.0' ?>\n<annotation>\n  <folder>VOC</folder>\n  <filename>a.jpg</filename>\n  <source>\n"
        f"    <database>roboflow.ai</database>\n  </source>{SIZE}<segmented>0</segmented>\n"
        f"{voc_object('big dog')[:-9]}<polygon>\n<x1>11</x1>\n<y1>6</y1></polygon></object></annotation>",
        [Found("big dog", [10, 5, 20, 17])],
    ),
    "pylabel": (
        "<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height><depth/></size>"
        f"{voc_object(more='<pose/><truncated/><difficult/>')}</annotation>",
        [CAT],
    ),
    "Label Studio": (
        "<?xml version='1.0' encoding='utf-8'?>\n<annotation>\n<folder>images</folder>\n<filename>a</filename>\n"
        "<source>"
        "<database>MyDatabase</database><annotation>COCO2017</annotation></source><owner><name>Label Studio</name>"
        f"</owner>{SIZE}{voc_object(more='<pose>Unspecified</pose><difficult>0</difficult>')}</annotation>",
        [CAT],
    ),
    "labelImg": (
        "<annotation verified='yes'><folder>images</folder><filename>C:\\Users\\me\\images\\a.jpg</filename>"
        f"<path>C:\\Users\\me\\images\\a.jpg</path>{SIZE}{voc_object()}"
        f"{voc_object('big dog', more='<difficult>1</difficult>')}</annotation>",
        [CAT, Found("big dog", CAT.box, crowd=True)],
    ),
    "Roboflow": (
        f"<annotation><folder></folder><filename>a_jpg.rf.0123456789abcdef.jpg</filename><path>a_jpg.rf.jpg</path>{SIZE}"
        f"{voc_object(more='<truncated>0</truncated><occluded>0</occluded>')}</annotation>",
        [CAT],
    ),
    "VoTT": (
        f"<annotation verified='yes'><filename>a.jpg</filename><path>/home/me/a.jpg</path>{SIZE}"
        f"{voc_object(box=corners('11.000000000000002', '6', '20', '17'))}</annotation>",
        [CAT],
    ),
    "Pascal VOC 2012": (
        f"<annotation><filename>a.jpg</filename>{SIZE}<segmented>1</segmented>"
        f"{voc_object(more='<actions><other>0</other></actions><difficult>0</difficult>')[:-9]}"
        f"<part><name>head</name><bndbox>{corners(1, 1, 2, 2)}</bndbox></part><point><x>3</x></point></object>"
        "</annotation>",
        [CAT],
    ),
    "a size of nothing": (
        "<annotation><filename>/data/a.jpg</filename><size><width>0</width><height>0</height></size>"
        f"{voc_object(' cat ')}{voc_object('cat', corners(7, 7, 7, 9))}</annotation>",
        [CAT],
    ),
    "no size, another image format": (f"<annotation><filename>d.jpg</filename>{voc_object()}</annotation>", [CAT]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("tool", VOC_FILES)
def test_voc_files_of_tools(folder: Path, tool: str, encoding: str) -> None:
    text, expected = VOC_FILES[tool]
    encoded = text.replace("encoding='utf-8'", f"encoding='{encoding}'").encode(encoding)
    assert found_objects(voc(folder, encoded, "d" if "another" in tool else "a")) == {0: expected}


def test_rows_of_texts_and_other_numbers(folder: Path) -> None:
    objects = {"bbox": [["10", "5", "10", "12"]], "category": ["cat"], "area": ["120"], "iscrowd": [0.0]}
    rows = [{"file_name": name, "objects": objects, "height": "0"} for name in IMAGES]
    (folder / "images" / "metadata.jsonl").write_text("\n".join(json.dumps(row | {"width": None}) for row in rows))
    data = HubDetection("imagefolder", data_dir=str(folder / "images"), val_split="train", batch_size=1)
    assert found_objects(data) == {row: [CAT] for row in range(3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"description": "", "tags": [], "size": {"height": 30, "width": 40}, "objects": []}, "field `images`"),
        ([{"image": "a.jpg", "annotations": []}], "expected `object`, got `array`; found"),
        ([record(score=0.9)], "expected `object`, got `array`; found"),
        ({"version": "5.0", "shapes": [], "imagePath": "a.jpg"}, "object missing required field `images`; found"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "object missing required field `images`; found"),
        ({**plain(record()), "annotations": {"1": record()}}, "annotations: expected `array`, got `object`; found"),
        ({"images": [{"id": 1, **A}], "categories": CLASSES}, "missing required field `annotations`; found"),
        (
            plain(record(bbox=[0.1, 0.2, 0.5, 0.55])),
            r"every box lies within 0 and 1, such as \[0\.1, 0\.2, 0\.6, 0\.75\]",
        ),
        (plain(record("a"), images=[{"id": "a", **A}]), r"images\[0\]\.id: expected `int`, got `str`; found 'a'"),
        (plain(record(), images=[{"id": 1, **A}, {"id": 2, **A}]), r"images\[1\]\.file_name: found '.*images\[0\] has"),
        (plain(record(category="cat")), r"annotations\[0\]\.category_id: expected `int`, got `str`; found 'cat'"),
        (plain(record(), images=[{"id": 1, **A, "file_name": "C:\\me\\a.jpg"}]), r"images\[0\] names the file 'C:"),
        (b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n", "not a JSON file"),
        (plain(record()) | {"categories": ["cat", "big dog"]}, r"categories\[0\]: expected `object`, got `str`; found"),
    ],
)
def test_other_content_is_refused_in_one_line(folder: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=r"a\.json.*" + message) as caught:
        _ = coco(folder, content).splits
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc_object(box=corners(0.1, 0.2, 0.5, 0.5)), r"train\.txt: every box lies within 0 and 1"),
        ("<object><name>cat</name><robndbox><cx>1</cx></robndbox></object>", r"a\.xml: object\[0\]: .*field `bndbox`"),
        (voc_object(box=corners(1, 2, 3, "")), r"a\.xml: object\[0\]\.bndbox: object missing required field `ymax`"),
        (voc_object(more="<difficult>perhaps</difficult>"), r"a\.xml: object\[0\]\.difficult: .*; found 'perhaps'"),
    ],
)
def test_other_voc_files_are_refused_in_one_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _ = voc(folder, f"<annotation><filename>a.jpg</filename>{SIZE}{text}</annotation>".encode()).splits
    assert "\n" not in str(caught.value)

"""Names of files in annotations lead to files of the data set and to no others."""

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data import CocoDetection, HubImages, MaskFolder, VocDetection
from mambarium.platform.data.images.image_files import contained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "images" / "1").mkdir(parents=True)
    for name in ("a.png", "1/b.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / "set" / "images" / name)
    Image.new("RGB", (40, 30)).save(tmp_path / "outside.png")
    return tmp_path / "set" / "images"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        ("1/b.png", "1/b.png"),
        ("1\\b.png", "1/b.png"),
        ("1/../a.png", "a.png"),
        ("../images/a.png", "a.png"),
        ("images/a.png", "a.png"),
        ("set/images/1/b.png", "1/b.png"),
        ("images/none.png", "images/none.png"),
        ("a..png", "a..png"),
        ("..a.png", "..a.png"),
    ],
)
def test_names_inside_the_folder(folder: Path, name: str, meant: str) -> None:
    assert contained(folder, name, "file, record 1") == folder / meant


def test_a_repetition_of_the_folder_is_only_left_out_where_nothing_has_that_name(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "images" / "a.png")
    assert contained(folder, "images/a.png", "x") == folder / "images" / "a.png"


def test_a_whole_path_into_the_folder_is_read(folder: Path) -> None:
    assert contained(folder, str(folder / "a.png"), "x") == folder / "a.png"


OUTSIDE = [
    "../../outside.png",
    "1/../../../outside.png",
    "..\\..\\outside.png",
    "/etc/hostname",
    "//server/share/a.png",
    "C:\\data\\a.png",
    "c:a.png",
    "file:///etc/hostname",
    "https://host/a.png",
    "a.png\0",
]


@pytest.mark.skipif(sys.platform == "darwin", reason="names in one form alone")
def test_names_in_the_other_form_of_unicode(folder: Path) -> None:
    apart, composed = (unicodedata.normalize(form, "Bär.png") for form in ("NFD", "NFC"))
    Image.new("RGB", (8, 8)).save(folder / apart)
    assert contained(folder, composed, "x") == folder / apart


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"^t\.json: image 7 names the file .*, which does not lie inside ") as caught:
        contained(folder, name, "t.json: image 7")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_coco_and_lvis_names(folder: Path) -> None:
    root = folder.parent
    box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 9, 9]}

    def data(**names: str) -> CocoDetection:
        image = {"id": 7, "width": 40, "height": 30, **names}
        content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
        (root / "a.json").write_text(json.dumps(content))
        files = {"train_images": "images", "val_images": "images"}
        return CocoDetection(str(root), train_annotations="a.json", val_annotations="a.json", batch_size=1, **files)

    assert len(data(file_name="images/a.png").training_samples()) == 1
    for names in ({"file_name": "../../outside.png"}, {"coco_url": "http://host/../../outside.png"}):
        with pytest.raises(InputError, match=r"a\.json: images\[0\] names the file '\.\./.*which does not lie inside"):
            data(**names).training_samples()


def test_voc_names(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "voc"
    for part in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / part).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "outside.jpg")
    (root / "outside.xml").write_text("<annotation/>")
    (root / "Annotations" / "a.xml").write_text(
        "<annotation><filename>../outside.jpg</filename><size><width>40</width><height>30</height></size></annotation>"
    )
    lists = root / "ImageSets" / "Main" / "train.txt"
    lists.write_text("a\n")
    with pytest.raises(InputError, match=r"a\.xml names the file '\.\./outside\.jpg', which does not lie inside"):
        _ = VocDetection(str(root)).class_names
    lists.write_text("../outside\n")
    with pytest.raises(InputError, match=r"train\.txt names the file '\.\./outside\.xml', which does not lie inside"):
        _ = VocDetection(str(root)).class_names
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("../outside\n")
    with pytest.raises(InputError, match=r"train\.txt names the file '\.\./outside\.jpg', which does not lie inside"):
        MaskFolder(str(root), preset="pascal_voc").training_samples()


def test_rows_that_name_files(tmp_path: Path, folder: Path) -> None:
    features = datasets.Features(
        {
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.Value("int64"),
        }
    )

    def data(second: str) -> HubImages:
        rows: dict[str, Any] = {"label": [0, 1]}
        rows["image"] = [{"bytes": None, "path": str(folder / "a.png")}, {"bytes": None, "path": second}]
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder.parent / "rows.parquet"))
        arguments: dict[str, Any] = {"data_files": str(folder.parent / "*.parquet"), "val_split": "train"}
        return HubImages("parquet", image_size=8, batch_size=1, **arguments)

    assert len(data(str(folder / "1" / "b.png")).training_samples()) == 2
    with pytest.raises(InputError, match=r"row 1: names the file '.*outside\.png', which does not lie in the data"):
        data(str(tmp_path / "outside.png")).training_samples()
    with pytest.raises(InputError, match=r"row 1: names the file '.*outside\.png', which does not lie in the data"):
        data(f"{folder}/../../outside.png").training_samples()

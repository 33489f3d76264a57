"""Data sets by name, through `load_dataset` on files made here."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data import HubImages, HubText


def encoded(value: int) -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(buffer, format="png")
    return {"bytes": buffer.getvalue()}


@pytest.fixture
def parquet(tmp_path: Path) -> dict[str, str]:
    files = {}
    for split, count in (("train", 20), ("test", 6)):
        features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["ant", "bee"])})
        rows = {"img": [encoded(10 * i) for i in range(count)], "fine": [i % 2 for i in range(count)]}
        files[split] = str(tmp_path / f"{split}.parquet")
        datasets.Dataset.from_dict(rows, features=features).to_parquet(files[split])
    return files


def hub_images(files: dict[str, str], **arguments: object) -> HubImages:
    defaults = {"data_files": files, "image_column": "img", "label_column": "fine", "image_size": 8}
    return HubImages("parquet", **{**defaults, "train_transforms": [], **arguments})


def test_classes_without_an_image_are_named(tmp_path: Path) -> None:
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["ant", "bee", "wasp"])})
    rows = {"img": [encoded(10 * i) for i in range(20)], "fine": [2 * (i % 2) for i in range(20)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    lines = hub_images({"train": str(tmp_path / "train.parquet")}).description()
    assert "note     1 of 3 classes without a training image: bee" in lines


def test_images_of_a_parquet_file(parquet: dict[str, str]) -> None:
    data = hub_images(parquet, test_split="test")
    assert data.class_names == ["ant", "bee"]
    assert [len(source.labels) for source in data.splits] == [18, 2, 6]
    sample = data.test_samples()[(0, 3)]
    assert sample.label == 1 and sample.image.unique().tolist() == [30]
    sliced = hub_images(parquet, train_split="train[:10]", val_split="train[10:]")
    assert [len(source.labels) for source in sliced.splits] == [10, 10, 10]


def test_images_of_an_image_folder(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for label, name in enumerate(("ant", "bee")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("L", (8, 8), 100 * label + index).save(folder / f"{index}.png")
    data = HubImages(
        "imagefolder", data_dir=str(tmp_path / "images"), val_split="validation", image_size=8, batch_size=2
    )
    assert data.class_names == ["ant", "bee"]
    assert [len(source.labels) for source in data.splits] == [6, 6, 6]
    values = {int(data.splits.val.read((0, i)).image[0, 0, 0]) // 100 for i in range(6) if data.splits.val.labels[i]}
    assert values == {1}


def test_labels_that_are_numbers_or_names(tmp_path: Path) -> None:
    for labels, names in (([0, 2, 2, 0], ["0", "1", "2"]), (["b", "a", "b", "a"], ["a", "b"])):
        file = str(tmp_path / f"{names[0]}.parquet")
        features = datasets.Features(
            {"img": datasets.Image(), "fine": datasets.Value("string" if names[0] == "a" else "int64")}
        )
        rows = {"img": [encoded(i) for i in range(4)], "fine": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
        data = hub_images({"train": file}, val_fraction=0.5)
        assert data.class_names == names
        assert sorted(data.splits.train.labels) == sorted({names.index(str(label)) for label in labels})


def test_image_sets_that_do_not_fit(parquet: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'image'; it has img, fine; set data\.image_column"):
        _ = hub_images(parquet, image_column="image").class_names
    with pytest.raises(InputError, match=r"no column 'label'; it has img, fine; set data\.label_column"):
        _ = hub_images(parquet, label_column="label").class_names
    with pytest.raises(InputError, match="not images"):
        _ = hub_images(parquet, image_column="fine").splits
    with pytest.raises(InputError, match="split 'validation'"):
        _ = hub_images(parquet, val_split="validation").class_names
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        _ = HubImages("nobody/no-such-data-set").class_names
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be loaded"):
        _ = hub_images({"train": str(tmp_path / "missing.parquet")}).class_names


def test_a_corrupt_row_is_named(tmp_path: Path) -> None:
    file = str(tmp_path / "broken.parquet")
    rows = {"img": [encoded(1), {"bytes": b"nonsense"}], "fine": [0, 1]}
    features = datasets.Features({"img": {"bytes": datasets.Value("binary")}, "fine": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    data = hub_images({"train": file}, val_split="train")
    with pytest.raises(InputError, match=r"row 1: not an image"):
        data.training_samples()


def test_text_of_a_text_file(tmp_path: Path) -> None:
    text = "".join(f"line {i}: grüße\n" for i in range(100))
    (tmp_path / "text.txt").write_text(text)
    data = HubText("text", data_files=str(tmp_path / "text.txt"), cache_dir=str(tmp_path / "tokens"), length=16)
    raw = text.encode()
    assert data.raw_text("train", 10**9) + data.raw_text("val", 10**9) == raw
    assert len(data.splits.train.tokens) + len(data.splits.val.tokens) == len(raw)
    assert data.splits.test is data.splits.val
    assert bytes(data.splits.train.tokens[:20]) == raw[:20]


def test_text_of_parquet_columns(tmp_path: Path) -> None:
    file = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict({"body": ["one", "two"] * 50, "stars": [1, 2] * 50}).to_parquet(file)

    def opened(**arguments: str) -> HubText:
        return HubText("parquet", data_files=file, cache_dir=str(tmp_path / "tokens"), length=4, **arguments)

    data = opened(column="body", separator="|", val_split="train[:2]", test_split="train[:1]")
    assert bytes(data.splits.val.tokens[:]) == b"one|two|"
    assert bytes(data.splits.test.tokens[:]) == b"one|" == data.raw_text("test", 100)
    with pytest.raises(InputError, match=r"no column 'text'; it has body, stars; set data\.column"):
        _ = opened().splits
    with pytest.raises(InputError, match="not text"):
        _ = opened(column="stars").splits

"""What a checkpoint keeps of the data: said without reading, and data that says something else is refused."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from mambarium.errors import InputError
from mambarium.platform.data import (
    AssociativeRecall,
    CocoDetection,
    Digits,
    DigitSceneDetection,
    DigitSceneSegmentation,
    ExactDataModule,
    HubDetection,
    HubImages,
    HubSegmentation,
    HubText,
    ImageFolder,
    MaskFolder,
    MultiTaskData,
    PydocTopics,
    TextFiles,
    VocDetection,
)
from mambarium.platform.data.core.known_facts import described_difference

NOWHERE = "/no/such/place"

MISSING: dict[str, tuple[Callable[[], Any], str]] = {
    "ImageFolder": (lambda: ImageFolder(NOWHERE), r"no such folder of images \(data\.path\)"),
    "HubImages": (lambda: HubImages("parquet", data_files=f"{NOWHERE}.parquet"), "cannot be loaded"),
    "CocoDetection": (lambda: CocoDetection(NOWHERE), r"cannot be read .*check data\.path"),
    "VocDetection": (lambda: VocDetection(NOWHERE), "no such list of images"),
    "HubDetection": (lambda: HubDetection("parquet", data_files=f"{NOWHERE}.parquet"), "cannot be loaded"),
    "MultiTaskData": (lambda: MultiTaskData({"one": Digits(), "two": ImageFolder(NOWHERE)}), "no such folder"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_constructors_read_nothing_and_classes_are_read_when_asked_for(kind: str) -> None:
    make, message = MISSING[kind]
    data = make()
    for name in ("class_names", "num_classes"):
        with pytest.raises(InputError, match=message) as caught:
            getattr(data, name)
        assert "\n" not in str(caught.value)


def test_constructors_of_what_needs_no_classes_read_nothing() -> None:
    for segmentation in (
        MaskFolder(NOWHERE, class_names=["a", "b"]),
        HubSegmentation("parquet", class_names=["a", "b"], data_files=f"{NOWHERE}.parquet"),
    ):
        assert segmentation.class_names == ["a", "b"]
        with pytest.raises(InputError, match=r"no such folder|cannot be loaded"):
            segmentation.training_samples()
    for text in (
        TextFiles(NOWHERE, tokenizer=f"{NOWHERE}.json"),
        HubText("parquet", data_files=f"{NOWHERE}.parquet", tokenizer=f"{NOWHERE}.json"),
    ):
        with pytest.raises(InputError, match="cannot read this tokenizer file"):
            _ = text.vocab_size
        with pytest.raises(InputError, match=r"no such text file|cannot be loaded|cannot read this tokenizer"):
            _ = text.splits
    assert TextFiles(NOWHERE).vocab_size == 256


def write_classes(folder: Path, *names: str, size: int = 12) -> None:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (size, size), (50 * number, 10 * index, 0)).save(folder / name / f"{index}.png")


def write_coco(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    categories = [{"id": 10 * number + 7, "name": name} for number, name in enumerate(names)]
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 9, 9]}
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    (folder / "a.json").write_text(json.dumps({"images": [image], "annotations": [box], "categories": categories}))


def coco(folder: Path) -> CocoDetection:
    files = {"train_images": "", "val_images": "", "train_annotations": "a.json", "val_annotations": "a.json"}
    return CocoDetection(str(folder), **files, batch_size=1, short_side=30)  # type: ignore[arg-type]  # texts


def kept(data: ExactDataModule) -> dict[str, Any]:
    """The state of a module as a checkpoint gives it back."""
    file = BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def predicted(data: Any, images: Path) -> dict[str, Any]:
    data.predict_path = str(images)
    (batch,) = data.predict_dataloader()
    return batch


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "new" / "a.png")
    return tmp_path / "new"


def test_a_restored_classifier_needs_no_training_data(tmp_path: Path, images: Path) -> None:
    write_classes(tmp_path / "set", "cat", "dog")
    state = kept(ImageFolder(str(tmp_path / "set"), image_size=12))
    assert state == {
        "class_names": ["cat", "dog"],
        "image_size": 12,
        "mean": [0.485, 0.456, 0.406],
        "std": state["std"],
    }
    shutil.rmtree(tmp_path / "set")
    for data in (
        ImageFolder(str(tmp_path / "set"), image_size=8),
        HubImages("parquet", data_files=f"{NOWHERE}.parquet", image_size=8),
    ):
        data.load_state_dict(state)
        assert data.class_names == ["cat", "dog"] and data.num_classes == 2
        assert predicted(data, images)["image"].shape == (1, 3, 8, 8)  # as configured
        assert data.state_dict() == {**state, "image_size": 8}
        with pytest.raises(InputError, match=r"no such folder|cannot be loaded"):
            data.training_samples()


def test_a_restored_detector_needs_no_training_data(tmp_path: Path, images: Path) -> None:
    write_coco(tmp_path / "set", "ant", "bee")
    state = kept(coco(tmp_path / "set"))
    assert state["class_names"] == ["ant", "bee"] and state["category_ids"] == [7, 17]
    shutil.rmtree(tmp_path / "set")
    for data in (
        coco(tmp_path / "set"),
        VocDetection(NOWHERE, short_side=30),
        HubDetection("parquet", data_files=NOWHERE, short_side=30),
    ):
        data.load_state_dict(state)
        assert data.class_names == ["ant", "bee"] and data.num_classes == 2 and data.category_ids == [7, 17]
        assert data.class_frequencies is None
        assert predicted(data, images)["image"].shape == (1, 3, 32, 64)


def test_a_restored_segmenter_and_restored_tasks_need_no_training_data(tmp_path: Path, images: Path) -> None:
    state = kept(MaskFolder(NOWHERE, class_names=["sky", "road"]))
    data = MaskFolder(NOWHERE, class_names=["sky", "road"], short_side=30)
    data.load_state_dict(state)
    assert data.class_names == ["sky", "road"] and predicted(data, images)["image"].shape == (1, 3, 32, 64)

    write_classes(tmp_path / "set", "cat", "dog")
    write_coco(tmp_path / "boxes", "ant", "bee")
    make = lambda: MultiTaskData(  # noqa: E731
        {"classes": ImageFolder(str(tmp_path / "set"), image_size=12), "objects": coco(tmp_path / "boxes")}
    )
    state = kept(make())
    shutil.rmtree(tmp_path / "set")
    shutil.rmtree(tmp_path / "boxes")
    tasks = make()
    tasks.load_state_dict(state)
    assert tasks.class_names == {"classes": ["cat", "dog"], "objects": ["ant", "bee"]}
    assert tasks.num_classes == {"classes": 2, "objects": 2}
    assert tasks.class_frequencies == {"classes": None, "objects": None}
    assert all(len(predicted(part, images)["path"]) == 1 for part in tasks.tasks.values())


def write_tokenizer(file: Path, *tokens: str, indent: int | None = None, lower: bool = False) -> str:
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(("[UNK]", *tokens))}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    file.write_text(json.dumps(json.loads(tokenizer.to_str()), indent=indent))
    return str(file)


def test_a_restored_language_model_needs_neither_text_nor_tokenizer_file(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one two " * 50)
    file = write_tokenizer(tmp_path / "t.json", "one", "two")
    text = {"train": str(tmp_path / "text.txt"), "tokenizer": file, "length": 4}
    state = kept(TextFiles(**text))
    assert state["vocab_size"] == 3
    (tmp_path / "t.json").unlink()
    (tmp_path / "text.txt").rename(tmp_path / "away.txt")
    for data in (TextFiles(**text), HubText("parquet", data_files=NOWHERE, tokenizer=file)):
        data.load_state_dict(state)
        assert data.vocab_size == 3 and data.encode("two one") == [2, 1] and data.decode([1, 2]) == "one two"
        assert kept(data) == state
        with pytest.raises(InputError, match=r"no such text file|cannot be loaded"):
            _ = data.splits
    (tmp_path / "away.txt").rename(tmp_path / "text.txt")
    write_tokenizer(tmp_path / "t.json", "one", "two", indent=4)
    data = TextFiles(**text)
    data.load_state_dict(state)
    assert data.splits.train.tokens[:2].tolist() == [1, 2]  # the same, however the file is written
    for other, difference in (
        (write_tokenizer(tmp_path / "a.json", "two", "one"), r"data: \[UNK\], two, one; checkpoint: \[UNK\], one, two"),
        (write_tokenizer(tmp_path / "b.json", "one", "two", lower=True), "the same tokens, but another normalizer"),
        (None, r"data: bytes; checkpoint: a tokenizer\.json"),
    ):
        before, after = (TextFiles(**{**text, "tokenizer": other}) for _ in range(2))
        _ = before.splits
        with pytest.raises(InputError, match=f"the tokenizer of the data and of the checkpoint differ \\({difference}"):
            before.load_state_dict(state)
        with pytest.raises(InputError, match=f"the tokenizer of the data and of the checkpoint differ \\({difference}"):
            after.load_state_dict(state)
            _ = after.splits


def test_other_classes_than_those_of_the_checkpoint_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "set", "cat", "dog")
    state = kept(ImageFolder(str(tmp_path / "set"), image_size=12))
    shutil.rmtree(tmp_path / "set")
    write_classes(tmp_path / "set", "ant", "zebra")
    message = (
        rf"{tmp_path}/set: class_names of the data and of the checkpoint differ "
        r"\(data: ant, zebra; checkpoint: cat, dog\); give the data that the model was trained on, or train another"
    )
    for part in ("training_samples", "validation_samples", "test_samples"):
        data = ImageFolder(str(tmp_path / "set"), image_size=12)
        data.load_state_dict(state)
        assert data.class_names == ["cat", "dog"]
        with pytest.raises(InputError, match=message):
            getattr(data, part)()
    data = ImageFolder(str(tmp_path / "set"), image_size=12)
    data.training_samples()
    with pytest.raises(InputError, match=message):
        data.load_state_dict(state)


def test_other_numbers_of_the_same_classes_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "set", "ant", "bee")
    state = kept(coco(tmp_path / "set"))
    content = (tmp_path / "set" / "a.json").read_text().replace('"id": 17', '"id": 18')
    (tmp_path / "set" / "a.json").write_text(content)
    data = coco(tmp_path / "set")
    data.load_state_dict(state)
    with pytest.raises(InputError, match=r"a\.json: category_ids .* \(data: 7, 18; checkpoint: 7, 17\)"):
        data.validation_samples()


@pytest.mark.parametrize(
    ("data", "other"),
    [
        (MaskFolder(NOWHERE, class_names=["a", "b"]), MaskFolder(NOWHERE, class_names=["b", "a"])),
        (MaskFolder(NOWHERE, preset="camvid"), MaskFolder(NOWHERE, preset="pascal_voc")),
        (DigitSceneSegmentation(), MaskFolder(NOWHERE, class_names=["a"])),
        (DigitSceneDetection(), VocDetection(NOWHERE, class_names=["cat"])),
        (Digits(), HubSegmentation("parquet", class_names=["a"])),
        (AssociativeRecall(vocab_size=64), AssociativeRecall(vocab_size=32)),
        (MultiTaskData({"a": Digits()}), MultiTaskData({"a": DigitSceneSegmentation()})),
    ],
)
def test_arguments_that_say_something_else_are_refused_at_once(data: ExactDataModule, other: ExactDataModule) -> None:
    state = kept(data)
    data.load_state_dict(state)
    with pytest.raises(InputError, match="of the data and of the checkpoint differ"):
        other.load_state_dict(state)


def test_checkpoints_without_a_state_let_the_data_be_read(tmp_path: Path) -> None:
    write_classes(tmp_path / "set", "cat", "dog")
    data = ImageFolder(str(tmp_path / "set"), image_size=12)
    data.load_state_dict({})
    assert data.class_names == ["cat", "dog"] and len(data.validation_samples()) == 2
    text = PydocTopics()
    text.load_state_dict({})
    assert text.decode(text.encode("a")) == "a"


def test_differences_of_long_lists_are_shortened() -> None:
    names = [f"class {number}" for number in range(1000)]
    other = [*names[:500], "another", *names[501:999]]
    assert described_difference(other, names) == (
        "999 in the data, 1000 in the checkpoint, 2 places differ: number 500 is 'another' in the data and 'class 500' "
        "in the checkpoint, number 999 is missing in the data and 'class 999' in the checkpoint"
    )
    assert described_difference(64, 32) == "data: 64; checkpoint: 32"
    assert len(described_difference(names, names[::-1])) < 400

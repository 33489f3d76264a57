"""Images that are in several parts of a set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mambarium.platform.data import Digits, ImageFolder, MaskFolder
from mambarium.platform.data.images.equal_images import equal_images


def write(folder: Path, *seeds: int) -> None:
    folder.mkdir(parents=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.bmp")


@pytest.fixture
def leaking(tmp_path: Path) -> ImageFolder:
    write(tmp_path / "train" / "cat", 0, 1, 2)
    write(tmp_path / "train" / "dog", 3, 4, 5)
    write(tmp_path / "val" / "cat", 10, 1, 2)
    write(tmp_path / "val" / "dog", 11, 12)
    write(tmp_path / "test" / "cat", 10, 20)
    write(tmp_path / "test" / "dog", 3, 21)
    return ImageFolder(str(tmp_path), image_size=8)


def test_shared_images_are_counted_with_an_example(leaking: ImageFolder, tmp_path: Path) -> None:
    lines = leaking.description()
    assert lines == [
        "classes  2 (training/validation/test): cat 3/3/2, dog 3/2/2",
        "note     2 of the validation images are also training images, such as "
        f"{tmp_path}/val/cat/1.bmp and {tmp_path}/train/cat/1.bmp",
        "note     1 of the test images are also training images, such as "
        f"{tmp_path}/test/dog/3.bmp and {tmp_path}/train/dog/3.bmp",
        "note     1 of the test images are also validation images, such as "
        f"{tmp_path}/test/cat/10.bmp and {tmp_path}/val/cat/10.bmp",
    ]


@pytest.mark.parametrize(("limit", "value"), [("MOST_IMAGES", 14), ("MOST_BYTES", 15 * 246 - 1)])
def test_large_sets_are_not_read_for_it(
    leaking: ImageFolder, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (Path(leaking.splits.train.name(0))).stat().st_size
    parts = {"a": leaking.splits.train, "b": leaking.splits.val, "c": leaking.splits.test}
    assert equal_images(parts) and sum(map(len, parts.values())) == 15 and size == 246
    monkeypatch.setattr(f"mambarium.platform.data.images.equal_images.{limit}", value)
    assert equal_images(parts) == []


def test_files_of_their_own_sizes_are_not_read(leaking: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(len(leaking.splits.val)):
        file = leaking.splits.val.stored(index)
        file.write_bytes(file.read_bytes() + b"x" * (index + 1))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    assert equal_images({"a": leaking.splits.train, "b": leaking.splits.val}) == []


def test_images_that_are_made_here_and_missing_ones(tmp_path: Path, leaking: ImageFolder) -> None:
    assert Digits().description()[0].startswith("classes  10 (training/validation): 0 142/36, 1 1")
    splits = leaking.splits
    (tmp_path / "train" / "cat" / "1.bmp").unlink()
    assert "1 of the validation images" in equal_images({"training": splits.train, "validation": splits.val})[0]


def test_long_lists_of_classes_are_shortened() -> None:
    from mambarium.platform.data.core.messages import shortened

    assert shortened([str(number) for number in range(1000)]) == "0, 1, 2, ..., 997, 998, 999"
    assert MaskFolder("/nowhere", preset="ade20k").class_names[0] == "wall"

"""Image folders: layouts, formats, caching, prediction, and what bad ones get."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image
from torchvision.transforms import v2

from mambarium.errors import InputError
from mambarium.platform.data import ImageFolder
from mambarium.platform.data.images.decoding import decode_image


def write_images(folder: Path, count: int, size: int = 12, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for index in range(count):
        Image.fromarray(pixels[index]).save(folder / f"{index:03d}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        write_images(tmp_path / "images" / name, 20 if "train" in name else 5, seed=seed)
    return tmp_path / "images"


def small(path: Path, **arguments: object) -> ImageFolder:
    return ImageFolder(str(path), **{"image_size": 12, "batch_size": 4, "passes": 1, **arguments})


def one_line(caught: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_part_of_each_class_is_held_out(folder: Path) -> None:
    splits = small(folder).splits
    assert sorted(splits.train.labels) == [0] * 18 + [1] * 18
    assert sorted(splits.val.labels) == [0] * 2 + [1] * 2
    names = [{source.name(i) for i in range(len(source.labels))} for source in splits]
    assert not names[0] & names[1] and len(names[2]) == 10
    again = small(folder, seed=5).splits
    assert {again.val.name(i) for i in range(4)} == names[1]


def test_other_layouts(folder: Path) -> None:
    data = small(folder, val_fraction=0)
    assert data.splits.val is data.splits.test and len(data.splits.train.labels) == 40
    assert data.validation_samples() is data.test_samples()
    bare = small(folder / "train")
    assert bare.class_names == ["cat", "dog"] and bare.splits.test is bare.splits.val
    write_images(folder / "validation" / "dog", 3)
    assert small(folder).splits.val.labels == [1, 1, 1]


def test_cached_and_uncached_images_are_the_same(folder: Path) -> None:
    transforms = [v2.RandomCrop(12, padding=2), v2.RandomErasing(p=1, inplace=True)]
    cached, uncached = (
        small(folder, cache=cache, train_transforms=transforms).training_samples() for cache in (True, False)
    )
    for pass_index in (0, 1, 0):
        for index in range(5):
            assert torch.equal(cached[(pass_index, index)].image, uncached[(pass_index, index)].image)


def test_default_transforms_bring_images_to_size(folder: Path) -> None:
    Image.new("RGB", (30, 17), (255, 0, 0)).save(folder / "train" / "cat" / "wide.png")
    data = small(folder, image_size=8)
    batch = data.collate([data.training_samples()[(0, i)] for i in range(len(data.training_samples()))])
    assert batch["image"].shape == (36 + 1, 3, 8, 8)
    assert next(iter(data.val_dataloader()))["image"].shape == (4, 3, 8, 8)


def test_float_transforms_are_normalised_alike(folder: Path) -> None:
    to_float = [v2.ToDtype(torch.float32, scale=True)]
    by_bytes, by_floats = (small(folder, train_transforms=transforms) for transforms in ([], to_float))
    batches = [data.collate([data.training_samples()[(0, i)] for i in range(4)]) for data in (by_bytes, by_floats)]
    torch.testing.assert_close(batches[0]["image"], batches[1]["image"], atol=1e-5, rtol=0)


def test_formats_become_rgb(tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    grey = torch.from_numpy(ramp).expand(3, 8, 8)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    Image.fromarray(ramp).convert("LA").save(tmp_path / "grey_alpha.png")
    Image.fromarray(ramp).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(ramp).convert("RGBA").save(tmp_path / "alpha.png")
    for name in ("grey", "grey_alpha", "palette", "alpha"):
        image = decode_image(tmp_path / f"{name}.png", name)
        assert image.dtype == torch.uint8 and torch.equal(image, grey), name
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image = decode_image(tmp_path / "cmyk.jpg", "cmyk")
    assert image[0].min() > 240 and image[1:].max() < 16
    red.convert("1").save(tmp_path / "one_bit.png")
    assert set(decode_image(tmp_path / "one_bit.png", "one_bit").unique().tolist()) <= {0, 255}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_is_named(folder: Path, num_workers: int) -> None:
    broken = folder / "test" / "dog" / "002.png"
    broken.write_bytes(broken.read_bytes()[:100])
    data = small(folder, cache=False, num_workers=num_workers)
    with pytest.raises(InputError) as caught:
        list(data.test_dataloader())
    one_line(caught, str(broken), "mend or remove")
    assert str(caught.value).startswith(str(broken))


def test_an_image_too_small_for_a_transform_is_named(folder: Path) -> None:
    small_one = folder / "train" / "cat" / "000.png"
    Image.new("RGB", (5, 6)).save(small_one)
    samples = small(folder, val_fraction=0, train_transforms=[v2.RandomCrop(12, padding=2)]).training_samples()
    with pytest.raises(InputError) as caught:
        samples[(0, 0)]
    one_line(caught, str(small_one), "RandomCrop", "5 x 6 pixels", "Required crop size (12, 12) is larger", "resize")
    assert samples[(0, 1)].image.shape == (3, 12, 12)


@pytest.mark.thorough
def test_what_is_no_image_is_named(folder: Path) -> None:
    (folder / "test" / "cat" / "000.png").write_text("hello")
    with pytest.raises(InputError) as caught:
        small(folder).test_samples()
    one_line(caught, "000.png", "not an image of a known format")


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _ = small(tmp_path / "nowhere").class_names
    one_line(caught, "nowhere", "no such folder")

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        _ = small(tmp_path / "empty").class_names
    one_line(caught, "empty", "no class folders")

    (folder / "train" / "emu").mkdir()
    with pytest.raises(InputError) as caught:
        _ = small(folder).splits
    one_line(caught, str(folder / "train" / "emu"), "no images")
    (folder / "train" / "emu").rmdir()

    write_images(folder / "test" / "fox", 1)
    with pytest.raises(InputError) as caught:
        _ = small(folder).splits
    one_line(caught, str(folder / "test" / "fox"), "cat, dog")

    (folder / "train").rename(folder / "all")
    (folder / "all").rename(folder.parent / "all")
    with pytest.raises(InputError) as caught:
        _ = small(folder).class_names
    one_line(caught, "has a folder test but no folder train")


@pytest.mark.parametrize(
    "names", [("Training", "Val", "Testing"), ("TRAIN", "valid", "test"), ("train", "dev", "TEST")]
)
def test_usual_names_of_parts(tmp_path: Path, names: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in zip(names, (4, 2, 1), strict=True):
        for label in ("cat", "dog"):
            write_images(tmp_path / name / label, count)
    (tmp_path / "annotations").mkdir()
    data = small(tmp_path)
    assert data.class_names == ["cat", "dog"] and [len(source) for source in data.splits] == [8, 4, 2]
    assert f"note: {tmp_path}: passed over annotations beside {sorted(names)[0]}" in capsys.readouterr().err
    write_images(tmp_path / "validation" / "cat", 1)
    with pytest.raises(InputError, match=r"both name val images; move one of them away"):
        _ = small(tmp_path).class_names


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        write_images(tmp_path / label, 3)
    assert small(tmp_path).class_names == ["bus", "car", "train"]


def test_folders_a_level_too_high_or_too_low_are_refused(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        write_images(tmp_path / "images" / label, 3)
    with pytest.raises(InputError) as caught:
        _ = small(tmp_path).class_names
    one_line(caught, "the folder of one class alone, images; it holds the folders cat, dog, so data.path is probably")
    assert str(caught.value).endswith(str(tmp_path / "images"))
    with pytest.raises(InputError) as caught:
        _ = small(tmp_path / "images" / "cat").class_names
    one_line(caught, f"holds images itself: data.path is probably {tmp_path / 'images'}")
    (tmp_path / "images" / "dog").rename(tmp_path / "dog")
    with pytest.raises(InputError, match="the folder of one class alone, cat; give two or more"):
        _ = small(tmp_path / "images").class_names


def test_links_between_folders_count_no_image_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.symlink(".", folder / "train" / "cat" / "again")
    os.symlink("../cat", folder / "train" / "dog" / "cats")
    data = small(folder, val_fraction=0)
    assert np.bincount(data.splits.train.labels).tolist() == [20, 20]
    assert f"{folder / 'train'}: passed over 2 links to folders that are read already" in capsys.readouterr().err


def test_class_folders_in_two_forms_of_unicode_are_one_class(folder: Path) -> None:
    for part, form in (("train", "NFD"), ("test", "NFC")):
        write_images(folder / part / unicodedata.normalize(form, "Bär"), 4)
    data = small(folder, val_fraction=0)
    assert data.class_names == ["Bär", "cat", "dog"] and data.splits.test.labels.count(0) == 4


def test_nothing_to_validate_on(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.val_fraction"):
        _ = small(folder / "train", val_fraction=0).splits
    with pytest.raises(InputError, match=r"data\.val_fraction is 1\.5"):
        _ = small(folder, val_fraction=1.5).splits


def test_prediction_reads_every_image_of_a_folder(folder: Path) -> None:
    data = small(folder)
    with pytest.raises(InputError, match="no images to predict on"):
        data.predict_dataloader()
    data.predict_path = str(folder / "test")
    batches = list(data.predict_dataloader())
    assert [batch["image"].shape[0] for batch in batches] == [4, 4, 2]
    paths = [path for batch in batches for path in batch["path"]]
    assert paths == sorted(str(path) for path in (folder / "test").rglob("*.png"))
    odd = small(folder, eval_transforms=[v2.Resize(9)])
    odd.predict_path = data.predict_path
    with pytest.raises(InputError, match=r"000\.png: the transforms leave \(3, 9, 9\)"):
        next(iter(odd.predict_dataloader()))
    data.predict_path = str(folder / "training")
    with pytest.raises(InputError, match="no such folder"):
        data.predict_dataloader()


def test_corrupt_images_are_passed_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small(folder, broken="skip", val_fraction=0.0, train_transforms=[], eval_transforms=[])
    for broken in (folder / "train" / "cat" / "003.png", folder / "test" / "dog" / "002.png"):
        broken.write_bytes(broken.read_bytes()[:100])
    assert len(data.training_samples()) == 40 and len(data.test_samples()) == 9
    replaced, next_one = (data.training_samples()[(0, index)] for index in (3, 4))
    assert torch.equal(replaced.image, next_one.image) and replaced.label == next_one.label
    _ = data.training_samples()[(1, 3)]
    told = capsys.readouterr().err
    assert told.count("train/cat/003.png: cannot be decoded") == 1  # once, though met twice
    assert "1 of 10 evaluation samples are broken and left out" in told and "test/dog/002.png" in told
    with pytest.raises(InputError, match=r"data\.cache and data\.broken"):
        small(folder, broken="skip", cache=True)


def test_each_process_tells_of_its_broken_images(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = next(iter(sorted((folder / "train").rglob("*.png"))))
    broken.write_bytes(b"no image")
    samples = small(folder, broken="skip").training_samples()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    for index in range(len(samples)):
        samples[(0, index)]
    told = capsys.readouterr().err
    assert told.startswith("note (process 1): skipped broken sample 1:") and broken.name in told
    assert told.count("\n") == 1

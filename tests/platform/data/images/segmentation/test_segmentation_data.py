"""Masks from folders, published layouts and `datasets`, the bad ones among them."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data import HubSegmentation, MaskFolder
from mambarium.platform.data.images.segmentation.mask_counts import count_masks
from mambarium.tasks.batches import IGNORED_CLASS

NUMBERS = np.array([[0, 1, 1, 2], [0, 0, 255, 2], [1, 1, 0, 0]], dtype=np.uint8)


def save(numbers: np.ndarray, file: Path, palette: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers)
    if palette:
        image = Image.fromarray(numbers, mode="L").convert("P")
        image.putdata(numbers.flatten().tolist())
        image.putpalette([255 - i // 3 for i in range(768)])
    image.save(file)


def save_image(file: Path, size: tuple[int, int] = (4, 3), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 100 if mode in ("L", "I;16") else None).save(file)


def own_folder(folder: Path, numbers: np.ndarray = NUMBERS, **arguments: Any) -> MaskFolder:
    for split in ("train", "val"):
        save_image(folder / split / "images" / "a.png")
        save(numbers, folder / split / "masks" / "a.png")
    return MaskFolder(
        str(folder),
        **{"class_names": ["sky", "road", "car"], "batch_size": 1, "short_side": 3, "size_multiple": 8, **arguments},
    )


def test_own_folders(tmp_path: Path) -> None:
    data = own_folder(tmp_path)
    assert data.num_classes == 3
    (batch,) = data.val_dataloader()
    assert batch["image"].shape == (1, 3, 8, 8) and batch["valid_size"].tolist() == [[3, 4]]
    assert torch.equal(batch["original_mask"][0], torch.from_numpy(NUMBERS).long())
    assert torch.equal(batch["mask"][0, :3, :4], batch["original_mask"][0])
    assert (batch["mask"][0, 3:] == IGNORED_CLASS).all() and (batch["mask"][0, :, 4:] == IGNORED_CLASS).all()
    shrunk = own_folder(tmp_path, short_side=6, size_multiple=1)
    (batch,) = shrunk.val_dataloader()
    assert batch["image"].shape == (1, 3, 6, 8) and batch["original_mask"][0].shape == (3, 4)


def test_zero_may_be_ignored(tmp_path: Path) -> None:
    data = own_folder(tmp_path, zero_is_ignored=True)
    mask = data.validation_samples()[(0, 0)]["original_mask"]
    assert mask.tolist() == [[255, 0, 0, 1], [255, 255, 255, 1], [0, 0, 255, 255]]


BINARY = np.where(NUMBERS > 0, 255, 0).astype(np.uint8)


def test_any_value_may_be_mapped(tmp_path: Path) -> None:
    data = own_folder(tmp_path, BINARY, class_names=None, mask_values={255: "object", 0: "background"})
    assert data.class_names == ["background", "object"]
    assert data.validation_samples()[(0, 0)]["original_mask"].tolist() == (BINARY // 255).tolist()
    assert data.description()[0] == "classes  2: background, object"
    assert not any("without a pixel" in line or "ignored" in line for line in data.description())
    merged = {0: "sky", 1: "thing", 2: "thing", 255: None}
    data = own_folder(tmp_path, class_names=None, mask_values=merged)
    assert data.class_names == ["sky", "thing"]
    expected = np.where(NUMBERS == 2, 1, NUMBERS)
    assert data.validation_samples()[(0, 0)]["original_mask"].tolist() == expected.tolist()
    assert own_folder(tmp_path, class_names=None, mask_values={0: "a", 1: "b", 2: "c"}).num_classes == 3
    folder = {"name": "imagefolder", "data_dir": str(tmp_path)}
    assert HubSegmentation(**folder, mask_values=merged).class_names == ["sky", "thing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_values": {0: "a"}}, r"give one of data\.preset .* data\.mask_values"),
        ({"class_names": None, "mask_values": {0: "a"}, "zero_is_ignored": True}, r"write 0: null instead"),
        ({"class_names": None, "mask_values": {-1: "a"}}, r"data\.mask_values has -1; give 0 to 65535"),
        ({"class_names": None, "mask_values": {0: None}}, r"0 classes; give names"),
        ({"class_names": None, "mask_values": {0: "a", 1: "b"}}, r"a\.png: holds .* 2, .* say in data\.mask_values"),
    ],
)
def test_mappings_that_cannot_be(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_folder(tmp_path, **arguments).validation_samples()[(0, 0)]


def test_hub_masks_need_classes() -> None:
    with pytest.raises(InputError, match=r"give one of data\.class_names and data\.mask_values, such as"):
        HubSegmentation("anywhere")


def test_two_classes_of_which_one_is_ignored_are_refused(tmp_path: Path) -> None:
    data = own_folder(tmp_path, BINARY, class_names=["background", "object"])
    with pytest.raises(InputError, match=r"no pixel is object; give data\.mask_values \{0: background, 255: object\}"):
        data.description()
    zeros = own_folder(tmp_path, np.zeros_like(BINARY), class_names=["background", "object"])
    assert zeros.description()[1] == "note     1 of 2 classes without a pixel in the 1 training masks: object"


def test_classes_without_a_pixel_are_named_and_ignored_pixels_are_counted(tmp_path: Path) -> None:
    names = ["sky", "road", "car", *(f"rare {number}" for number in range(12))]
    lines = own_folder(tmp_path, class_names=names).description()
    assert lines[1] == (
        "note     12 of 15 classes without a pixel in the 1 training masks: rare 0, rare 1, rare 2, ..., rare 9, "
        "rare 10, rare 11"
    )
    assert lines[-1] == "ignored  8.3% of the pixels in the 1 training masks"


def test_no_more_masks_are_read_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = own_folder(tmp_path)
    for index in range(70):
        save_image(tmp_path / "train" / "images" / f"b{index}.png")
        save(NUMBERS % 2 if index % 2 else NUMBERS, tmp_path / "train" / "masks" / f"b{index}.png")
    assert count_masks(data.splits.train, 3, "raise")[2:] == (1, 71)
    monkeypatch.setattr("mambarium.platform.data.images.segmentation.mask_counts.MOST_MASKS", 10)
    counts = count_masks(data.splits.train, 4, "raise")
    assert counts[2:] == (10, 71) and not counts.classes[3]
    assert counts.looked_at == "10 of 71 training masks, evenly spread"
    (tmp_path / "train" / "masks" / "a.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"a\.png"):
        count_masks(data.splits.train, 3, "raise")
    assert count_masks(data.splits.train, 3, "skip").read == 2


@pytest.mark.parametrize("kind", ["palette", "16 bits", "grey as colour"])
def test_masks_are_numbers_whatever_their_format(tmp_path: Path, kind: str) -> None:
    data = own_folder(tmp_path)
    file = tmp_path / "val" / "masks" / "a.png"
    if kind == "16 bits":
        save(NUMBERS.astype(np.uint16), file)
    elif kind == "palette":
        save(NUMBERS, file, palette=True)
    else:
        save(np.stack([NUMBERS] * 3, axis=2), file)
    assert data.validation_samples()[(0, 0)]["original_mask"].tolist() == NUMBERS.tolist()


@pytest.mark.parametrize(("bits", "stored"), [(1, 1), (2, 3), (4, 15), (4, 9)])
def test_grey_masks_of_few_bits_give_the_stored_numbers(tmp_path: Path, bits: int, stored: int) -> None:
    numbers = np.array([[0, 1, 1, stored], [0, 0, stored, 0], [1, 1, 0, 0]], dtype=np.uint8)
    data = own_folder(tmp_path, class_names=[str(number) for number in range(2**bits)])
    unpacked = (numbers[..., None] >> np.arange(bits)[::-1] & 1).reshape(3, -1)
    lines = b"".join(b"\0" + line.tobytes() for line in np.packbits(unpacked, axis=1))
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 4, 3, bits, 0, 0, 0, 0)  # grey
    for kind, part in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
    (tmp_path / "val" / "masks" / "a.png").write_bytes(content)
    assert data.validation_samples()[(0, 0)]["original_mask"].tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (NUMBERS[:2], r"a\.png: a mask of 4 x 2 pixels for an image of 4 x 3"),
        (
            np.where(NUMBERS == 2, 7, NUMBERS).astype(np.uint8),
            r"a\.png: holds the number 7, which is none of the 3 classes",
        ),
        (np.stack([NUMBERS, NUMBERS, NUMBERS + 1], axis=2), r"a\.png: a mask in colours \(mode RGB\)"),
    ],
)
def test_masks_that_do_not_fit(
    tmp_path: Path, numbers: np.ndarray, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message):
        own_folder(tmp_path, numbers).validation_samples()[(0, 0)]
    save_image(tmp_path / "val" / "images" / "b.png")
    save(NUMBERS, tmp_path / "val" / "masks" / "b.png")
    skipping = own_folder(tmp_path, numbers, broken="skip")
    assert len(skipping.validation_samples()) == 1
    assert "skipped broken sample" in capsys.readouterr().err
    with pytest.raises(InputError, match="none of the 1 samples can be read"):
        skipping.training_samples()[(0, 0)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, r"data\.ignored_value is 1, which is also the number of class 1"),
        (-1, r"data\.ignored_value is -1; give 0 to 65535"),
        (70000, r"data\.ignored_value is 70000; give 0 to 65535"),
    ],
)
def test_ignored_values_that_cannot_be(tmp_path: Path, value: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        own_folder(tmp_path, ignored_value=value).validation_samples()


def test_missing_masks_and_folders(tmp_path: Path) -> None:
    own_folder(tmp_path)
    (tmp_path / "val" / "masks" / "a.png").rename(tmp_path / "val" / "masks" / "b.png")
    with pytest.raises(InputError, match=r"1 of 1 files are missing .*a\.png"):
        own_folder_unchanged = MaskFolder(str(tmp_path), class_names=["a", "b", "c"])
        own_folder_unchanged.validation_samples()
    with pytest.raises(InputError, match="no such folder"):
        MaskFolder(str(tmp_path / "nowhere"), preset="camvid").training_samples()
    with pytest.raises(InputError, match="has no folders leftImg8bit/train and gtFine/train"):
        _ = MaskFolder(str(tmp_path), preset="cityscapes").splits
    with pytest.raises(InputError, match=r"give one of data\.preset .* data\.class_names and data\.mask_values"):
        MaskFolder(str(tmp_path))


def test_images_of_other_modes(tmp_path: Path) -> None:
    data = own_folder(tmp_path, intensity_range=[0, 4095])
    for name, mode in (("cmyk.jpg", "CMYK"), ("grey16.png", "I;16")):
        save_image(tmp_path / "val" / "images" / name, mode=mode)
        save(NUMBERS, tmp_path / "val" / "masks" / f"{Path(name).stem}.png")
    assert [data.validation_samples()[(0, i)]["image"].shape for i in range(3)] == [(3, 3, 4)] * 3


def test_images_are_turned_and_masks_only_if_they_say_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(NUMBERS)  # shown as NUMBERS
    for name, mask, of_mask in (("a", NUMBERS, None), ("b", stored, exif)):
        for part in ("train", "val"):
            (tmp_path / part / "images").mkdir(parents=True, exist_ok=True)
            (tmp_path / part / "masks").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / part / "images" / f"{name}.png", exif=exif)
            Image.fromarray(np.ascontiguousarray(mask)).save(tmp_path / part / "masks" / f"{name}.png", exif=of_mask)
    samples = MaskFolder(str(tmp_path), class_names=["sky", "road", "car"], short_side=3).validation_samples()
    for index in range(2):
        sample = samples[(0, index)]
        assert sample["original_mask"].tolist() == NUMBERS.tolist()
        assert sample["image"][0].tolist() == NUMBERS.tolist()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "val" / "masks" / "a.png")
    with pytest.raises(InputError, match=r"a mask of 3 x 4 pixels for an image of 4 x 3, and images are turned as"):
        samples[(0, 0)]


def test_ade20k(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        save_image(tmp_path / "images" / split / "x.jpg")
        save(np.array([[0, 1, 150, 2]] * 3, dtype=np.uint8), tmp_path / "annotations" / split / "x.png")
    data = MaskFolder(str(tmp_path), preset="ade20k")
    assert data.num_classes == 150 and data.class_names[0] == "wall" and data.class_names[149] == "flag"
    assert data.validation_samples()[(0, 0)]["original_mask"][0].tolist() == [255, 0, 149, 1]


def test_cityscapes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_image(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_000001_leftImg8bit.png")
        folder = tmp_path / "gtFine" / split / "ulm"
        save(np.array([[0, 7, 33, 29]] * 3, dtype=np.uint8), folder / "ulm_000001_gtFine_labelIds.png")
    data = MaskFolder(str(tmp_path), preset="cityscapes")
    assert data.class_names[18] == "bicycle" and data.num_classes == 19
    assert data.validation_samples()[(0, 0)]["original_mask"][0].tolist() == [255, 0, 18, 255]


def test_pascal_voc(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg")
        save(np.array([[0, 20, 255, 2]] * 3, dtype=np.uint8), tmp_path / "SegmentationClass" / f"{name}.png", True)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("x\ny\n")
    (lists / "val.txt").write_text("z\n")
    data = MaskFolder(str(tmp_path), preset="pascal_voc", batch_size=2)
    assert (len(data.training_samples()), len(data.validation_samples()), data.num_classes) == (2, 1, 21)
    assert data.validation_samples()[(0, 0)]["original_mask"][0].tolist() == [0, 20, 255, 2]


@pytest.mark.parametrize(("images", "masks"), [("train/images", "train/masks"), ("train", "trainannot")])
def test_camvid(tmp_path: Path, images: str, masks: str) -> None:
    for split in ("train", "val"):
        save_image(tmp_path / images.replace("train", split) / "x.png")
        save(np.array([[0, 11, 10, 2]] * 3, dtype=np.uint8), tmp_path / masks.replace("train", split) / "x.png")
    data = MaskFolder(str(tmp_path), preset="camvid")
    assert data.validation_samples()[(0, 0)]["original_mask"][0].tolist() == [0, 255, 10, 2]
    assert data.test_samples() is data.validation_samples()


def test_masks_of_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "train"
    lines = []
    for i in range(4):
        save_image(folder / f"image{i}.png")
        save(NUMBERS, folder / f"mask{i}.png")
        lines.append(json.dumps({"image_file_name": f"image{i}.png", "mask_file_name": f"mask{i}.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    arguments: dict[str, Any] = {"name": "imagefolder", "data_dir": str(tmp_path / "set")}
    data = HubSegmentation(**arguments, class_names=["a", "b", "c"], val_fraction=0.25, short_side=3)
    assert (len(data.training_samples()), len(data.validation_samples())) == (3, 1)
    assert data.validation_samples()[(0, 0)]["original_mask"].tolist() == NUMBERS.tolist()
    with pytest.raises(InputError, match=r"row \d: holds the number 2"):
        few = HubSegmentation(**arguments, class_names=["a", "b"], val_split="train")
        few.validation_samples()[(0, 0)]
    with pytest.raises(InputError, match=r"no column 'seg'.*data\.mask_column"):
        HubSegmentation(**arguments, class_names=["a"], mask_column="seg").training_samples()

"""Images of more than 8 bits: one range of intensities for a data set, kept with the model."""

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mambarium.errors import InputError
from mambarium.platform.data import ImageFolder, MaskFolder
from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.decoding import decode_image
from mambarium.platform.data.images.intensity import measured_range

RAMP = np.linspace(0, 255, 256).round().astype(np.uint8).reshape(16, 16)

BITS = {"8 bits": 1, "12 bits": 4095 / 255, "16 bits": 257}


def write(file: Path, numbers: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if numbers.ndim == 3 and numbers.dtype == np.uint16:
        file.write_bytes(png_of_16_bits(numbers))
    else:
        Image.fromarray(numbers).save(file)
    return file


def png_of_16_bits(numbers: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = numbers.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in numbers)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def scaled(bits: str) -> np.ndarray:
    return np.rint(RAMP.astype(np.float64) * BITS[bits]).astype(np.uint8 if bits == "8 bits" else np.uint16)


def folder_of(root: Path, **images: np.ndarray) -> ImageFolder:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            for name, numbers in images.items():
                write(root / part / label / f"{name}.tif", numbers)
    return ImageFolder(str(root), image_size=16, batch_size=1)


@pytest.mark.parametrize("bits", BITS)
def test_the_same_scene_looks_the_same_in_any_number_of_bits(tmp_path: Path, bits: str) -> None:
    data = folder_of(tmp_path, a=scaled(bits))
    image = data.validation_samples()[(0, 0)].image
    assert (image.int() - torch.from_numpy(RAMP).int()).abs().max() <= 1
    expected = {"8 bits": None, "12 bits": [0, 4095], "16 bits": [0, 65535]}[bits]
    assert data.state_dict()["intensity_range"] == expected


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_keep_all_of_them(tmp_path: Path, channels: int) -> None:
    numbers = np.stack([scaled("12 bits")] * channels, axis=2)
    file = write(tmp_path / "a.png", numbers)
    assert measured_range([(file, "a")]) == (0, 4095)
    image = decode_image(file, str(file), (0, 4095))
    assert image.shape == (3, 16, 16) and (image[0].int() - torch.from_numpy(RAMP).int()).abs().max() <= 1
    assert image.unique().numel() == 256


def test_32_bits_have_the_range_of_the_set_and_not_their_own(tmp_path: Path) -> None:
    bright, dark = scaled("12 bits").astype(np.int32), (scaled("12 bits") // 16).astype(np.int32)
    samples = folder_of(tmp_path, bright=bright, dark=dark).validation_samples()
    assert samples[(0, 0)].image.max() == 255 and samples[(0, 1)].image.max() == 16


def test_few_pixels_beyond_the_others_do_not_darken_the_set() -> None:
    numbers = np.full((100, 100), 400, dtype=np.uint16)
    numbers[:50] = 0
    numbers[0, :5] = 65535  # dead pixels, one in 2,000
    assert measured_range([(encoded_grey(numbers), "a")]) == (0, 511)


def encoded_grey(numbers: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(numbers).save(encoded, "TIFF" if numbers.dtype != np.uint16 else "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [(0, 90, (0, 255)), (3, 256, (0, 511)), (31768, 34000, (31768, 31768 + 4095)), (-1000, 3000, (-1000, 3095))],
)
def test_ranges_that_begin_elsewhere(lowest: int, highest: int, expected: tuple[float, float]) -> None:
    numbers = np.linspace(lowest, highest, 100).astype(np.int32).reshape(10, 10)
    assert measured_range([(encoded_grey(numbers), "a")]) == expected


def test_a_range_of_ones_own(tmp_path: Path) -> None:
    folder_of(tmp_path, a=scaled("12 bits"))
    own = ImageFolder(str(tmp_path), image_size=16, intensity_range=(1000, 2000))
    image = own.validation_samples()[(0, 0)].image[0].numpy()
    assert (image[RAMP * BITS["12 bits"] <= 1000] == 0).all() and (image[RAMP * BITS["12 bits"] >= 2000] == 255).all()
    with pytest.raises(InputError, match=r"data\.intensity_range is \[5, 5\]; give the lower number first"):
        ImageFolder(str(tmp_path), intensity_range=(5, 5))


def test_floating_point_needs_a_range(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "set", a=np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16))
    with pytest.raises(SampleError, match=r"a\.tif: pixels of floating point; set data\.intensity_range"):
        data.training_samples()
    image = ImageFolder(str(tmp_path / "set"), image_size=16, intensity_range=(0, 1)).validation_samples()[(0, 0)].image
    assert torch.equal(image[0], torch.from_numpy(RAMP))
    file = write(tmp_path / "nan.tif", np.full((4, 4), np.nan, dtype=np.float32))
    with pytest.raises(SampleError, match=r"nan\.tif: cannot be decoded \(pixels that are no numbers\)"):
        decode_image(file, str(file), (0, 1))


def test_sets_of_mixed_depth(tmp_path: Path) -> None:
    samples = folder_of(tmp_path, eight=scaled("8 bits"), twelve=scaled("12 bits")).validation_samples()
    assert (samples[(0, 0)].image.int() - samples[(0, 1)].image.int()).abs().max() <= 1


def test_a_checkpoint_keeps_the_range(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "set", a=scaled("12 bits"))
    data.training_samples()
    state = data.state_dict()
    shutil.rmtree(tmp_path / "set")
    dark = write(tmp_path / "new" / "a.png", scaled("12 bits") // 16)
    restored = ImageFolder(str(tmp_path / "set"), image_size=16)
    restored.load_state_dict(state)
    restored.predict_path = str(dark.parent)
    assert restored.predict_dataloader().dataset[0].image.max() == 16
    assert restored.state_dict() == state
    configured = ImageFolder(str(tmp_path / "set"), image_size=16, intensity_range=(0, 255))
    configured.load_state_dict(state)
    configured.predict_path = str(dark.parent)
    assert configured.predict_dataloader().dataset[0].image.max() == 255


def test_images_of_more_bits_than_any_trained_on_are_refused(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "set", a=scaled("8 bits"))
    data.training_samples()
    with pytest.raises(SampleError, match=r"b\.png: has more than 8 bits, .*; set data\.intensity_range to"):
        data.reader.read(write(tmp_path / "b.png", scaled("12 bits")), str(tmp_path / "b.png"))


def test_masks_are_numbers_whatever_the_range(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(tmp_path / part / "images" / "a.png", scaled("12 bits"))
        write(tmp_path / part / "masks" / "a.png", (RAMP > 100).astype(np.uint16))
    data = MaskFolder(str(tmp_path), class_names=["no", "yes"], batch_size=1, short_side=16)
    sample = data.validation_samples()[(0, 0)]
    assert (sample["image"].int() - torch.from_numpy(RAMP).int()).abs().max() <= 1
    assert sample["original_mask"].tolist() == (RAMP > 100).astype(int).tolist()

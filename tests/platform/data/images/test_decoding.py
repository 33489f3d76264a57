"""From files to pixels: turned as they are shown, and neither bombs nor programs nor stacks."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter
from torch import Tensor

from mambarium.platform.data.core.samples import SampleError
from mambarium.platform.data.images.decoding import MAX_PIXELS, decode_image, opened_image, shown_size

pytestmark = pytest.mark.thorough


def png(width: int, height: int, bits: int = 8, color: int = 2, data: bytes | None = None, *chunks: bytes) -> bytes:
    """A PNG file with a header and compressed pixels of one's choice."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data or b"x") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(11586, 11586), (13000, 13000), (30000, 30000), (2**31 - 1, 2**31 - 1)])
def test_too_many_declared_pixels_are_refused_before_memory_is_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png(*size))
    with pytest.raises(SampleError, match=r"bomb\.png: has more than 134,217,728 pixels: cut it into tiles") as caught:
        decode_image(tmp_path / "bomb.png", str(tmp_path / "bomb.png"))
    assert "\n" not in str(caught.value)


def test_a_large_image_takes_few_bytes_a_pixel_and_no_warning() -> None:
    side = 4000
    program = f"""
import resource, sys, zlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_decoding import png
from mambarium.platform.data.images.decoding import decode_image
packer = zlib.compressobj(1)
rows = b"".join(packer.compress(bytes(1 + 3 * {side})) for _ in range({side})) + packer.flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decode_image(png({side}, {side}, 8, 2, rows), "image").shape == (3, {side}, {side})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / {side}**2)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(finished.stdout) < 9.5 and not finished.stderr


def test_strips_are_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 7, 4), dtype=np.uint8)
    for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1", "LA"):
        image = Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        encoded = io.BytesIO()
        image.save(encoded, "TIFF")
        for strip in (2**20, 21):
            monkeypatch.setattr("mambarium.platform.data.images.decoding.STRIP_PIXELS", strip)
            assert torch.equal(decode_image(encoded.getvalue(), "image"), expected), (mode, strip)


def test_nothing_is_run_to_read_an_image() -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    with pytest.raises(SampleError, match="not an image of a known format"):
        decode_image(page, "page.png")


def stack(kind: str, pages: int = 3, **arguments: Any) -> bytes:
    images = [Image.new("L", (8, 8), 70 * page) for page in range(pages)]
    encoded = io.BytesIO()
    images[0].save(encoded, kind, save_all=True, append_images=images[1:], **arguments)
    return encoded.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_stacks_and_animations_are_refused(kind: str) -> None:
    with pytest.raises(SampleError, match=r"s: a stack of 3 pages: store each page as an image of its own"):
        decode_image(stack(kind), "s")
    assert decode_image(stack(kind, 1), "s").shape == (3, 8, 8)


def test_previews_beside_an_image_make_no_stack() -> None:
    assert decode_image(stack("MPO"), "camera").shape == (3, 8, 8)
    images = [Image.new("L", (side, side), side) for side in (8, 4, 2)]
    encoded = io.BytesIO()
    writer = AppendingTiffWriter(encoded, new=True)
    for number, image in enumerate(images):
        image.save(writer, "TIFF", tiffinfo={254: 1} if number else {})
        writer.newFrame()
    assert decode_image(encoded.getvalue(), "pyramid")[0].unique().tolist() == [8]


SHOWN = torch.arange(24, dtype=torch.uint8).reshape(4, 6) * 10

STORED = {
    1: SHOWN,
    2: SHOWN.flip(1),
    3: SHOWN.flip(0, 1),
    4: SHOWN.flip(0),
    5: SHOWN.T,
    6: SHOWN.T.flip(0),
    7: SHOWN.T.flip(0, 1),
    8: SHOWN.T.flip(1),
}
"""What a file has to hold for each EXIF orientation to be shown as one picture."""


def with_orientation(pixels: Tensor, number: int, kind: str = "PNG", **arguments: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    encoded = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(encoded, kind, exif=exif, **arguments)
    return encoded.getvalue()


@pytest.mark.parametrize("number", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_images_are_turned_as_they_are_shown(kind: str, number: int) -> None:
    lossless: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}
    encoded = with_orientation(STORED[number], number, kind, **lossless.get(kind, {}))
    image = decode_image(encoded, "image")
    assert image.shape == (3, 4, 6)
    assert (image[0].int() - SHOWN.int()).abs().max() <= (12 if kind == "JPEG" else 0)
    with opened_image(encoded, "image") as opened:
        assert shown_size(opened) == (4, 6)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0", b"nonsense", b"Exif\0\0II*\0" + b"\xff" * 40]
)
def test_broken_exif_data_says_nothing(exif: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    encoded = io.BytesIO()
    Image.fromarray(SHOWN.numpy()).save(encoded, "JPEG", exif=exif, quality=100)
    assert decode_image(encoded.getvalue(), "image").shape == (3, 4, 6)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF"])
def test_damaged_files_of_every_kind_are_named(kind: str) -> None:
    encoded = io.BytesIO()
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(encoded, kind)
    whole = np.frombuffer(encoded.getvalue(), np.uint8)
    damaged = [whole[:part] for part in range(5, len(whole) - 60, 97)]
    # The directory of a TIFF comes last, the header of the others first.
    start = len(whole) - 200 if kind == "TIFF" else 0
    for _ in range(200):
        changed = whole.copy()
        changed[generator.integers(start, start + 200, 3) % len(whole)] = generator.integers(0, 256, 3)
        damaged.append(changed)
    refused = 0
    for content in damaged:
        try:
            decode_image(content.tobytes(), "image")
        except SampleError as error:
            assert str(error).startswith("image: ") and "\n" not in str(error)
            refused += 1
    assert refused >= 20


@pytest.mark.parametrize(
    ("position", "changed"),
    [
        (8 + 2 + 5 * 12 + 2, struct.pack("<H", 2)),  # where the pixels are: in letters
        (8 + 2 + 5 * 12 + 2, struct.pack("<H", 5)),  # as a fraction
        (8 + 2 + 11 * 12, struct.pack("<I", 160)),  # a second page without a size
    ],
)
def test_fields_that_pillow_does_not_expect_are_named(position: int, changed: bytes) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (6, 4)).save(encoded, "TIFF", tiffinfo={274: 3})
    content = bytearray(encoded.getvalue())
    content[position : position + len(changed)] = changed
    with pytest.raises(SampleError, match=r"^image: cannot be decoded \("):
        decode_image(bytes(content), "image")

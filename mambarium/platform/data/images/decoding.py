"""From an encoded image to a tensor, one convention for every format."""

import io
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as decode_unchanged

from mambarium.errors import InputError
from mambarium.platform.data.core.samples import SampleError

MAX_PIXELS = 2**27
"""Pixels up to which an image is decoded, at 11 bytes each or less: a tile of Sentinel-2 has 120 million."""

STRIP_PIXELS = 2**20
"""About how many pixels are converted at once, so that a conversion takes no second copy of a large image."""

UNREADABLE = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats whose pixels Pillow can't decode itself; for EPS it would run Ghostscript on whatever the file says."""

DEEP_COLOR = re.compile(r"(LA|RGB[AXa]?|CMYK);16")
"""Pillow's names of layouts with 16 bits a channel, of which it keeps the upper 8."""

ORIENTATION = 0x0112
"""EXIF's tag of how an image has to be turned."""

SIDEWAYS = (5, 6, 7, 8)
"""Those of its numbers that make height and width change places."""

IntensityRange = tuple[float, float]
"""The intensities that become black and white, in images of more than 8 bits."""


@cache
def formats() -> list[str]:
    """Return the formats that are read, by Pillow's names."""
    Image.init()
    return [name for name in Image.ID if name not in UNREADABLE]


def decode_image(stored: bytes | Path, name: str, intensity_range: IntensityRange | None = None) -> Tensor:
    """Decode an image of any format that Pillow knows as RGB: uint8 (3, height, width).

    It is turned as its EXIF data says, which is how people and labelling tools see it. Transparency is dropped, as
    `Image.convert("RGB")` and torchvision's image folder do. Images of 8 bits a channel and fewer are taken as they
    are; of more bits, `intensity_range` becomes 0 to 255 and what lies outside it is clipped.

    Args:
        stored: The file, or its content.
        name: What an error message calls the image.
        intensity_range: The intensities of images of more than 8 bits that become black and white.

    Raises:
        SampleError: If it is missing, truncated, too large, no image, a stack of several, or of more than 8 bits
            without a range.
    """
    with opened_image(stored, name) as image:
        if not is_deep(image):
            pixels = _colors(image)
        elif intensity_range is None:
            raise SampleError(
                f"{name}: has more than 8 bits, and it is not known what is black and what is white; set "
                "data.intensity_range to the lowest and the highest intensity, such as [0, 4095]"
            )
        else:
            pixels = _scaled(image, stored, intensity_range)
        return turned(pixels, orientation(image))


@contextmanager
def opened_image(stored: bytes | Path, name: str) -> Iterator[Image.Image]:
    """Open an image whose pixels are not decoded before they are asked for.

    Raises SampleError if it can't be opened, has too many pixels or several pages, or what is done with it fails.
    """
    try:
        with _file(stored, name) as file, warnings.catch_warnings():
            # Pillow warns of images of half its own limit, and of broken EXIF data.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(name)
                _require_one_page(image, name)
                yield image
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise SampleError(f"{name}: not an image of a known format; mend or remove it") from error
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    # Pillow's decoders raise SyntaxError and others as well for files that are not what they claim to be.
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, EOFError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise SampleError(f"{name}: cannot be decoded ({reason}); mend or remove it") from error


def _too_large(name: str) -> SampleError:
    return SampleError(f"{name}: has more than {MAX_PIXELS:,} pixels: cut it into tiles, make it smaller or remove it")


def _file(stored: bytes | Path, name: str) -> io.BytesIO | io.BufferedReader:
    if isinstance(stored, bytes):
        return io.BytesIO(stored)
    try:
        return stored.open("rb")
    except OSError as error:
        raise SampleError(f"{name}: cannot be read ({error.strerror}); mend or remove the file") from error


def _require_one_page(image: Image.Image, name: str) -> None:
    """Refuse stacks and animations; smaller copies of a TIFF's image and a camera's previews are none."""
    pages = getattr(image, "n_frames", 1)
    if image.format not in ("TIFF", "GIF", "WEBP", "PNG", "AVIF") or pages == 1:
        return
    if image.format == "TIFF":
        for page in range(1, pages):
            image.seek(page)
            if not image.tag_v2.get(254, 0) & 1:  # type: ignore[attr-defined]  # of TIFF images
                break
        else:
            image.seek(0)
            return
    raise SampleError(f"{name}: a stack of {pages} pages: store each page as an image of its own")


def orientation(image: Image.Image) -> int:
    """Return how a decoded image has to be turned: EXIF's number, which may stand behind the pixels; 1: not at all."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    # EXIF data may be any bytes; what can't be read says nothing, to browsers and labelling tools neither.
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, EOFError, struct.error):
        return 1


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Turn an image (..., height, width) as an EXIF orientation says."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(-2, -1)
    flipped = {2: [-1], 3: [-2, -1], 4: [-2], 6: [-1], 7: [-2, -1], 8: [-2]}.get(orientation)
    return pixels.flip(flipped) if flipped else pixels


def sideways_hint(one: Sequence[int], other: Sequence[int]) -> str:
    """Return what a message adds to two sizes (height, width) of which one may be that of the other, turned."""
    return ", and images are turned as their EXIF data says" if tuple(one) == tuple(reversed(other)) else ""


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width of an image that is not decoded, as it is shown."""
    # Pillow turns a TIFF itself; a PNG that says nothing before its pixels would be decoded to look behind them.
    asked = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    sideways = asked and orientation(image) in SIDEWAYS
    return (image.width, image.height) if sideways else (image.height, image.width)


def is_deep(image: Image.Image) -> bool:
    """Say whether an image that is not decoded yet has more than 8 bits a channel."""
    return image.mode.startswith(("I", "F")) or _is_deep_color(image)


def _is_deep_color(image: Image.Image) -> bool:
    return DEEP_COLOR.match(layout_name(image)) is not None


def layout_name(image: Image.Image) -> str:
    """Return Pillow's name of how the pixels of an image that is not decoded yet are stored, if it has one."""
    tiles = getattr(image, "tile", None)
    layout = tiles[0][3] if tiles else None
    if isinstance(layout, tuple):  # of TIFF files it begins with the name
        layout = layout[0] if layout else None
    return layout if isinstance(layout, str) else ""


def _strips(height: int, width: int) -> Iterator[slice]:
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield slice(top, min(height, top + rows))


def _strip(image: Image.Image, rows: slice) -> Image.Image:
    whole = rows.start == 0 and rows.stop == image.height
    return image if whole else image.crop((0, rows.start, image.width, rows.stop))


def _colors(image: Image.Image) -> Tensor:
    """Decode an image of 8 bits or fewer: uint8 (3, height, width), in memory channel-last as Pillow has it.

    Transforms are as fast on it or faster, and to transpose a whole photograph costs as much as to decode it by half.
    """
    image.load()
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows in _strips(image.height, image.width):
        strip = _strip(image, rows)
        pixels[rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _scaled(image: Image.Image, stored: bytes | Path, intensity_range: IntensityRange) -> Tensor:
    """Decode an image of more bits and bring a range of intensities to 0 to 255: uint8 (3, height, width)."""
    low, high = intensity_range
    numbers = intensities(image, stored)  # (1 or 3, height, width)
    pixels = np.empty((3, *numbers.shape[1:]), dtype=np.uint8)
    for rows in _strips(*numbers.shape[1:]):
        strip = (numbers[:, rows].astype(np.float64) - low) * (255 / (high - low))
        pixels[:, rows] = np.rint(strip.clip(0, 255))
    return torch.from_numpy(pixels)


def intensities(image: Image.Image, stored: bytes | Path) -> np.ndarray:
    """Decode an opened image of more than 8 bits: numbers as they are stored (1 or 3, height, width).

    Raises:
        ValueError: If it has pixels that are no numbers, or colours of more than 8 bits in another format than PNG.
    """
    if _is_deep_color(image):
        if image.format != "PNG":
            raise ValueError(f"colours of 16 bits, which can't be read from {image.format} files: store PNG, or 8 bits")
        content = stored if isinstance(stored, bytes) else stored.read_bytes()
        channels = decode_unchanged(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.UNCHANGED)
        return channels.numpy()[: 1 if len(channels) < 3 else 3]
    numbers = np.asarray(image)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise ValueError("pixels that are no numbers")
    return numbers[None]

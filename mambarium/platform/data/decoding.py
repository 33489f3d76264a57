"""From an encoded image to a tensor, one convention for every format."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mambarium.platform.data.sample_error import SampleError


def read_image(path: Path) -> Tensor:
    """Reads an image file as RGB.

    Args:
        path: The file.

    Returns:
        uint8 tensor (3, height, width).

    Raises:
        SampleError: If the file is missing, truncated or no image.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise SampleError(f"{path}: cannot be read ({error.strerror}); mend or remove the file") from error
    return decode_image(encoded, str(path))


def decode_image(encoded: bytes, name: str) -> Tensor:
    """Decodes an image of any format that Pillow knows as RGB.

    The pixels are taken as they are stored: a rotation that only stands in the EXIF data is not applied, as
    in torchvision's image folder.

    Args:
        encoded: The file's content.
        name: What an error message calls the image.

    Returns:
        uint8 tensor (3, height, width).

    Raises:
        SampleError: If it is truncated or no image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _to_rgb_tensor(image)
    except Image.UnidentifiedImageError as error:
        raise SampleError(f"{name}: not an image of a known format; mend or remove it") from error
    # Pillow's decoders raise SyntaxError and ValueError as well for files that are not what they claim to be.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise SampleError(f"{name}: cannot be decoded ({reason}); mend or remove it") from error


def _to_rgb_tensor(image: Image.Image) -> Tensor:
    """Decodes an image of any mode: grey, palette, transparent, 16-bit and CMYK ones become 8-bit RGB.

    Transparency is dropped, as `Image.convert("RGB")` and torchvision's image folder do; 16-bit grey is
    scaled to 8 bits, where `convert` would clip it. Grey of 32 bits is taken as 16 bits if a pixel is above 255.

    Args:
        image: An image of Pillow.

    Returns:
        uint8 tensor (3, height, width).

    Raises:
        ValueError: If the pixels are floating-point numbers or beyond 16 bits, whose range no convention fixes.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels: store 8 or 16 bits")
    if image.mode.startswith("I"):
        numbers = np.asarray(image).astype(np.int64)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise ValueError(f"pixels of {numbers.min()} to {numbers.max()}: store 8 or 16 bits")
        sixteen_bits = image.mode != "I" or numbers.max() > 255
        image = Image.fromarray((numbers >> 8 if sixteen_bits else numbers).astype(np.uint8))
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))  # (height, width, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

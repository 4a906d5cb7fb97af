# SPDX-License-Identifier: Apache-2.0
"""Image files. An EXIF tag that turns an image is obeyed, as viewers and labelling tools do."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.files import IMAGES
from mmsam_ros.sensors import SensorError, decode_image, to_8_bits

Array = NDArray[Any]
Image.MAX_IMAGE_PIXELS = None  # OpenCV has a limit of its own, 2^30
PNG = b"\x89PNG\r\n\x1a\n"  # what such a file begins with
_ORIENTATION = 0x0112  # tag of EXIF


def read_image(path: Path) -> Array:
    """A PNG, JPEG or TIFF: (H, W) or (H, W, 3) in RGB order, 8 or 16 bit or float; no alpha."""
    with naming(path):
        content = path.read_bytes()
    image = decode(path, content)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3) uint8; alpha is dropped, a single channel is replicated, 16 bits
    become 8.
    """
    with naming(path, SensorError):
        return np.ascontiguousarray(to_8_bits(three_channels(read_image(path))))


def three_channels(image: Array) -> Array:
    """(H, W, 3) of an image with one channel or more than two."""
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def orientation(path: Path) -> int:
    """The number by which an image's EXIF tag turns it; 1 where it does not, or for other files."""
    if path.suffix.lower() not in IMAGES:
        return 1
    with naming(path):
        content = path.read_bytes()
    # a PNG's tag may follow its pixels, which Pillow would decode to look for it
    if content.startswith(PNG) and b"eXIf" not in content:
        return 1
    with naming(path, SyntaxError), Image.open(io.BytesIO(content)) as image:
        number = int(image.getexif().get(_ORIENTATION, 1))
    return number if 1 <= number <= 8 else 1


def decode(path: Path, content: bytes) -> Array:
    """The content of an image file in OpenCV's order, turned as its EXIF tag says, without alpha.

    DataError for what is empty, cut off or broken.
    """
    try:
        return decode_image(content, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except SensorError as error:
        text = f"is broken, expected a whole PNG, JPEG or TIFF image (it {error})"
        raise DataError(f"{path}: {text}") from error

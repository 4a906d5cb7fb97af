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
from mmsam_ros.sensors import SensorError, decode_image, to_8_bits

Array = NDArray[Any]
Turns = dict[Path, int]  # the number in the EXIF tag of each image file that was read
Image.MAX_IMAGE_PIXELS = None  # OpenCV has a limit of its own, 2^30
PNG = b"\x89PNG\r\n\x1a\n"  # what such a file begins with
_ORIENTATION = 0x0112  # tag of EXIF


def read_image(path: Path, turns: Turns | None = None) -> Array:
    """A PNG, JPEG or TIFF: (H, W) or (H, W, 3) in RGB order, 8 or 16 bit or float; no alpha."""
    image = read_file(path, turns)[1]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image


def read_rgb(path: Path, turns: Turns | None = None) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3) uint8; alpha is dropped, a single channel is replicated, 16 bits
    become 8.
    """
    image = three_channels(read_image(path, turns))
    with naming(path, SensorError):
        return np.ascontiguousarray(to_8_bits(image))


def three_channels(image: Array) -> Array:
    """(H, W, 3) of an image with one channel or more than two."""
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def orientation(content: bytes) -> int:
    """The number by which the EXIF tag of an image file turns its pixels; 1 where it does not."""
    # a PNG's tag may follow its pixels, which Pillow would decode to look for it
    if content.startswith(PNG) and b"eXIf" not in content:
        return 1
    try:
        with Image.open(io.BytesIO(content)) as image:
            number = int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError):  # not what OpenCV could read, but no tag either
        return 1
    return number if 1 <= number <= 8 else 1


def read_file(path: Path, turns: Turns | None = None) -> tuple[bytes, Array]:
    """The content of an image file, and its pixels in OpenCV's order without alpha, turned as its
    EXIF tag says; `turns` takes note of the tag. DataError for what is empty, cut off or broken.
    """
    with naming(path):
        content = path.read_bytes()
    try:
        image = decode_image(content, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except SensorError as error:
        text = f"{path}: is broken, expected a whole PNG, JPEG or TIFF image"
        raise DataError(text if content else f"{text}; it is empty") from error
    if turns is not None:
        turns[path] = orientation(content)
    return content, image

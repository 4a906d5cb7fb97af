# SPDX-License-Identifier: Apache-2.0
"""Image files. An EXIF tag that turns an image is obeyed, as viewers and labelling tools do."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.sensors import SensorError, decode_image, to_8_bits
from mmsam_ros.sensors.limits import MAX_PIXELS, SizeError, check_pixels
from mmsam_ros.sensors.pixels import is_picture
from mmsam_ros.sensors.png import START as PNG

Array = NDArray[Any]
Turns = dict[Path, int]  # the number in the EXIF tag of each image file that was read
Image.MAX_IMAGE_PIXELS = None  # see `check_pixels`
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What Pillow may open: of all others it would run a program for one of them (Ghostscript, for EPS).
_FORMATS = ("TIFF", "BMP", "WEBP")
_SIDES = (257, 256)  # tags of TIFF: height, width
_WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers
_DEFLATED = ("tiff_deflate", "tiff_adobe_deflate")
_STRIPS, _TILES = (273, 279), (324, 325)  # tags: where parts of a TIFF lie, and their bytes
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_ORIENTATION = 0x0112  # tag of EXIF
TIFF_BITS = 258  # tag: bits of each channel
_STEP, _MOST_BYTES = 1 << 20, 16 * MAX_PIXELS  # inflated at a time; in all, of four floats


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


def read_file(path: Path, turns: Turns | None = None) -> tuple[bytes, Array]:
    """The content of an image file, and its pixels in OpenCV's order without alpha, turned as its
    EXIF tag says; `turns` takes note of the tag. DataError for what is empty, cut off or broken,
    or declares more pixels than `sensors.limits` allows.
    """
    with naming(path):
        content = path.read_bytes()
    try:
        whole = None if is_picture(content) else _load(content)
        image = decode_image(content, _AS_STORED) if whole is None else whole
    except SizeError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # SensorError, and a dozen types of Pillow
        text = f"{path}: is broken, expected a whole PNG, JPEG or TIFF image"
        raise DataError(text if content else f"{text}; it is empty") from error
    number = orientation(content)
    if turns is not None:
        turns[path] = number
    return content, upright(content, image, number)


def _load(content: bytes) -> Array | None:
    """Raises some error for a damaged TIFF, of which OpenCV reads what it can, and for what is none
    of `_FORMATS`. The pixels of a TIFF with alpha and 8 bits, whose colours OpenCV multiplies by
    alpha.
    """
    is_tiff = content.startswith(_TIFF)
    if is_tiff:
        check_pixels(*_tiff_size(content))
    try:
        opened = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:
        if is_tiff:  # of colours as floats, say, which OpenCV alone knows
            return None
        raise
    with opened as image:
        check_pixels(image.height, image.width)
        image.load()
        if image.info.get("compression") in _DEFLATED:
            tags = image.tag_v2  # type: ignore[attr-defined]
            starts, sizes = (tags[tag] for tag in (_TILES if _TILES[0] in tags else _STRIPS))
            for start, size in zip(starts, sizes, strict=True):
                _inflate(content[start : start + size])  # libtiff may leave its sum out
        if image.format == "TIFF" and image.mode == "RGBA":
            bits = image.tag_v2.get(TIFF_BITS, ())  # type: ignore[attr-defined]
            if set(bits) == {8}:  # Pillow would make 8 of 16
                return np.ascontiguousarray(np.asarray(image)[..., 2::-1])
    return None


def _tiff_size(content: bytes) -> tuple[int, int]:
    """(height, width) of a TIFF's first image; of a side that is given twice, the larger: readers
    do not agree on which counts.
    """
    order, big = "<" if content[:1] == b"I" else ">", b"+" in content[2:4]
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, at)
    head = struct.Struct(order + ("HHQ" if big else "HHI"))  # of an entry: tag, type, values
    place = at + (8 if big else 2)
    sides = dict.fromkeys(_SIDES, 0)
    for _ in range(count):  # struct.error beyond the end
        tag, kind, _ = head.unpack_from(content, place)
        if tag in sides:
            (value,) = struct.unpack_from(order + _WHOLE[kind], content, place + head.size)
            sides[tag] = max(value, sides[tag])
        place += head.size + (8 if big else 4)
    height, width = sides.values()
    return height, width


def _inflate(packed: bytes) -> None:
    """zlib.error unless it is one whole stream, of an allowed image at most."""
    inflate, size = zlib.decompressobj(), 0
    while not inflate.eof:
        part = inflate.decompress(packed, _STEP)
        packed, size = inflate.unconsumed_tail, size + len(part)
        if size > _MOST_BYTES or not (part or packed or inflate.eof):
            raise zlib.error("incomplete, or too long")


def upright(content: bytes, pixels: Array, number: int) -> Array:
    """Pixels (H, W[, C]) as the decoder gave them, turned as the file's EXIF tag says."""
    if content.startswith(_TIFF):  # of which decoders have turned them
        return pixels
    if number >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (-1 if number in numbers else 1 for numbers in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(pixels[::rows, ::columns])


def orientation(content: bytes) -> int:
    """The number by which the EXIF tag of an image file turns its pixels; 1 where it does not, or
    holds something else. XMP may name another one, which few programs obey.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if content.startswith(PNG) and b"eXIf" in content:
                image.load()  # the tag may follow the pixels
            tags = getattr(image, "tag_v2", None)
            if tags is None:
                tags = Image.Exif()
                tags.load(image.info.get("exif", b""))
            number = tags.get(_ORIENTATION)
    except Exception:  # a dozen types where a tag is damaged, or Pillow does not know the format
        return 1
    return number if isinstance(number, int) and 1 <= number <= 8 else 1

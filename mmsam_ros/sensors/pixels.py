# SPDX-License-Identifier: Apache-2.0
"""How pixels are packed in messages and files, and what is made of them: colours, one channel.

The names are those of sensor_msgs/image_encodings.hpp. Image and CompressedImage messages and the
files of a data set go through the same functions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import jpeg, png
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.statistics import is_swapped

Array = NDArray[Any]
_NO_COLOUR = 128  # chroma of grey
_JPEG_SPREAD = 8  # levels; the channels of a grey JPEG that was stored in colour differ by less
_DEPTH_HEADER = 12  # bytes before the PNG of compressedDepth: format, two parameters


class Packing(NamedTuple):
    """How the pixels of an encoding lie in memory."""

    kind: type[np.generic]
    channels: int  # values of a pixel, side by side
    to_rgb: int | None  # OpenCV's conversion; None: R, G, B already, or no colours
    planes: str = ""  # luma in full, then chroma at half the size: its order; else empty


# OpenCV names a Bayer pattern by the second and third pixel of its second row.
_BAYER = {"rggb": cv2.COLOR_BayerBG2RGB, "bggr": cv2.COLOR_BayerRG2RGB,
          "gbrg": cv2.COLOR_BayerGR2RGB, "grbg": cv2.COLOR_BayerGB2RGB}  # fmt: skip
_UYVY, _YUYV = cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2
_BGR, _BGRA, _RGBA = cv2.COLOR_BGR2RGB, cv2.COLOR_BGRA2RGB, cv2.COLOR_RGBA2RGB
_GREY = cv2.COLOR_GRAY2RGB

PACKINGS: Mapping[str, Packing] = {
    "rgb8": Packing(np.uint8, 3, None), "rgb16": Packing(np.uint16, 3, None),
    "bgr8": Packing(np.uint8, 3, _BGR), "bgr16": Packing(np.uint16, 3, _BGR),
    "rgba8": Packing(np.uint8, 4, _RGBA), "rgba16": Packing(np.uint16, 4, _RGBA),
    "bgra8": Packing(np.uint8, 4, _BGRA), "bgra16": Packing(np.uint16, 4, _BGRA),
    "mono8": Packing(np.uint8, 1, _GREY), "mono16": Packing(np.uint16, 1, _GREY),
    # without a meaning; of three or four channels OpenCV's order, as in RViz
    "8UC1": Packing(np.uint8, 1, _GREY), "8UC3": Packing(np.uint8, 3, _BGR),
    "8UC4": Packing(np.uint8, 4, _BGRA),
    "16UC1": Packing(np.uint16, 1, None), "16UC3": Packing(np.uint16, 3, None),
    "32FC1": Packing(np.float32, 1, None), "32FC3": Packing(np.float32, 3, None),
    **{f"bayer_{p}8": Packing(np.uint8, 1, code) for p, code in _BAYER.items()},
    **{f"bayer_{p}16": Packing(np.uint16, 1, code) for p, code in _BAYER.items()},
    "yuv422": Packing(np.uint8, 2, _UYVY), "uyvy": Packing(np.uint8, 2, _UYVY),
    "yuv422_yuy2": Packing(np.uint8, 2, _YUYV), "yuyv": Packing(np.uint8, 2, _YUYV),
    "nv12": Packing(np.uint8, 1, cv2.COLOR_YUV2RGB_NV12, "uv"),
    "nv21": Packing(np.uint8, 1, cv2.COLOR_YUV2RGB_NV21, "vu"),
}  # fmt: skip
"""Encoding of sensor_msgs/Image -> how its pixels are packed."""

CAMERA_PIXELS = ("rgb8", "rgb16", *(name for name, p in PACKINGS.items() if p.to_rgb is not None))
"""Encodings that a camera image may have."""
_COLOURS = ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4")
_YUV = tuple(name for name, p in PACKINGS.items() if p.planes or p.channels == 2)
THERMAL_PIXELS = ("mono8", "mono16", "8UC1", "16UC1", "32FC1", *_COLOURS, *_YUV)
"""Encodings that a thermal image may have; those with colours only if it is grey."""
RASTER_PIXELS = ("rgb8", "bgr8", "mono8", "8UC1", "8UC3", "16UC3", "32FC3")
"""Encodings that a raster of three channels may have."""
DEPTH_PIXELS = ("16UC1", "mono16", "32FC1")
"""Encodings that depth may have: millimetres, or metres as float."""


def decode_image(data: bytes, flags: int) -> Array:
    """A whole JPEG or PNG file to pixels (H, W) or (H, W, C) in the order B, G, R.

    `flags` are those of `cv2.imdecode`. SizeError, before anything is decoded, where the file
    declares more pixels than `limits` allows. SensorError where the data is empty, broken or cut
    off, whatever OpenCV makes of it. Damage within a JPEG's data is seen where parts are missing:
    the format has no checksum.
    """
    if not data:
        raise SensorError("is empty")
    end = jpeg.check_whole(data) if data.startswith(jpeg.START) else None
    if data.startswith(png.START):
        data = png.checked(data)
    pixels = _decode(data, flags)
    more = None if end is None else jpeg.with_more_data(data, end, pixels)
    if more is not None and not np.array_equal(_decode(more, flags), pixels):
        raise SensorError(f"of {len(data)} bytes is damaged: parts of it are missing")
    return pixels


def _decode(data: bytes, flags: int) -> Array:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # no fault of the data
            raise MemoryError(str(error).strip()) from error
        raise SensorError(f"of {len(data)} bytes is broken ({error})") from error
    if pixels is None:
        raise SensorError(f"of {len(data)} bytes cannot be decoded")
    return np.asarray(pixels)


def is_picture(data: bytes) -> bool:
    """Whether the data begins like a JPEG or PNG file."""
    return data.startswith((jpeg.START, png.START))


def decode_depth(data: bytes, encoding: str) -> Array:
    """compressedDepth of image_transport -> depth (H, W): uint16 millimetres for "16UC1", float32
    metres for "32FC1" (NaN where there is none). SensorError for RVL and broken data.
    """
    header, picture = data[:_DEPTH_HEADER], data[_DEPTH_HEADER:]
    if not picture.startswith(png.START):
        raise SensorError(
            f"of {len(data)} bytes is no PNG (RVL is not read); set the publisher's parameter "
            "<topic>.compressedDepth.format to png"
        )
    stored = decode_image(picture, cv2.IMREAD_UNCHANGED)
    if stored.ndim != 2 or stored.dtype != np.uint16:
        raise SensorError(f"holds {stored.dtype} {stored.shape}, expected 16 bits and one channel")
    if encoding != "32FC1":
        return stored
    a, b = np.frombuffer(header[4:], "<f4")  # inverse depth in steps: a / (count - b)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = a / (stored.astype(np.float32) - b)
    return np.where(stored == 0, np.float32(np.nan), metres).astype(np.float32)


class BitDepth:
    """How many of its 16 bits a camera uses, by all of its images: a dark one is no fault of a
    camera that has filled them before.
    """

    def __init__(self) -> None:
        self.bits = 0  # 12, 14 or 16: those of all values but a thousandth, in the brightest image
        self.images = 0

    def check(self, pixels: NDArray[np.uint16]) -> None:
        """Take an image into account. SensorError where none so far had more than 12 bits, at the
        low end: it would be a black picture.
        """
        few = pixels.size // 1000  # hot pixels
        low = (bits for bits in (12, 14) if np.count_nonzero(pixels >> bits) <= few)
        self.bits = max(self.bits, next(low, 16))
        self.images += 1
        if self.bits == 12 and pixels.any():
            raise SensorError(
                f"picture of 16 bits has no value above {np.sort(pixels, axis=None)[-1 - few]}, "
                "expected the whole range up to 65535; shift 10 or 12 bits to the upper end, or "
                "store 8 bits"
            )


def to_8_bits(pixels: Array, depth: BitDepth | None = None) -> NDArray[np.uint8]:
    """A picture of 8 or 16 bits -> 8 bits, 65535 to 255. SensorError as of `BitDepth`; `depth`
    is that of the images before it, of the same camera.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != np.uint16:
        raise SensorError(f"picture is {pixels.dtype}, expected uint8 or uint16")
    some = pixels[::4] if pixels.ndim == 2 else pixels[::4, :, 1]
    if is_swapped(some):
        raise SensorError(
            "picture of 16 bits is one only with the bytes of each value swapped; correct the byte "
            "order (is_bigendian) of the driver"
        )
    (depth or BitDepth()).check(pixels)
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257))  # rounds


def to_rgb(pixels: Array, encoding: str, depth: BitDepth | None = None) -> NDArray[np.uint8]:
    """Pixels of one of `CAMERA_PIXELS` -> rgb (H, W, 3) uint8, without a copy for rgb8; `depth` as
    of `to_8_bits`.
    """
    code = PACKINGS[encoding].to_rgb
    if code is not None:
        pixels = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code))
    return to_8_bits(pixels, depth)


def picture_rgb(pixels: Array, sent: str = "", depth: BitDepth | None = None) -> NDArray[np.uint8]:
    """A picture as `decode_image` gives it unchanged -> rgb (H, W, 3) uint8; alpha is dropped.

    sent: the encoding before compression. A PNG of a Bayer camera holds the mosaic. depth: as of
    `to_8_bits`.
    """
    bits = "16" if pixels.dtype == np.uint16 else "8"
    if pixels.ndim == 3:
        return to_rgb(pixels, ("bgra" if pixels.shape[2] == 4 else "bgr") + bits, depth)
    if not sent.startswith("bayer_"):
        return to_rgb(pixels, f"mono{bits}", depth)
    if sent not in PACKINGS:
        known = ", ".join(name for name in PACKINGS if name.startswith("bayer_"))
        raise SensorError(f"encoding is {sent!r}, expected one of {known}")
    return to_rgb(pixels, sent, depth)


def to_single(pixels: Array, encoding: str = "", uneven: bool = False) -> Array:
    """One channel (H, W) of an image whose colours, if it can have some, are all grey.

    encoding: of sensor_msgs where there is chroma, else for the error alone. `uneven`: channels may
    differ by any amount. The mean is read where they differ at all. SensorError where the image
    has colours: what a palette makes of counts is no measurement.
    """
    packing = PACKINGS.get(encoding)
    if packing is not None and encoding in _YUV:
        if packing.planes:
            height = len(pixels) * 2 // 3
            single, chroma = pixels[:height], pixels[height:]
        else:
            first = 1 if packing.to_rgb == _UYVY else 0
            single, chroma = pixels[..., first], pixels[..., 1 - first]
        spread, limit = np.abs(chroma.astype(np.int16) - _NO_COLOUR).max(initial=0), 1
    elif pixels.ndim == 3:
        spread, limit = channel_spread(pixels), _JPEG_SPREAD
        single = pixels[..., 0]
        if spread:
            single = np.rint(pixels[..., :3].mean(axis=2)).astype(pixels.dtype)
    else:
        return pixels
    if not (uneven or spread <= limit):
        raise SensorError(
            f"{encoding} image has colours (channels differ by up to {spread:g}), expected a grey "
            "one: false colours are no measurement; set the driver to mono8 or mono16, or export "
            "the camera's counts"
        )
    return np.ascontiguousarray(single)


def channel_spread(pixels: Array) -> float:
    """The most by which the colours (H, W, 3 or more) of a pixel differ, alpha left out;
    SensorError for an image without a pixel.
    """
    if 0 in pixels.shape:
        raise SensorError(f"image is empty: {pixels.shape}")
    colours = pixels[..., :3]
    return float(np.subtract(colours.max(2), colours.min(2), dtype=np.float64).max())

# SPDX-License-Identifier: Apache-2.0
"""Compressed files, stored rasters and thermal images to values, for messages and data sets."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.encodings import ENCODINGS, MAX_VALUE, Limits, check_image, check_limits
from mmsam_ros.sensors.errors import SensorError

_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_LEAST_CONTRAST = 4.0  # counts; stretched to 0..255, less would be a picture of noise


def decode_image(data: bytes, flags: int) -> NDArray[Any]:
    """A whole JPEG or PNG file to pixels (H, W) or (H, W, C) in the order B, G, R.

    `flags` are those of `cv2.imdecode`. SensorError where the data is empty, broken or cut off.
    """
    if not data:
        raise SensorError("is empty")
    # OpenCV 4 fills up a JPEG that was cut off; entropy-coded data never holds these two markers
    if data.startswith(_JPEG) and data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN):
        raise SensorError(f"of {len(data)} bytes is cut off")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise SensorError(f"of {len(data)} bytes is broken ({error})") from error
    if pixels is None:
        raise SensorError(f"of {len(data)} bytes cannot be decoded")
    return np.asarray(pixels)


def decode_raster(image: NDArray[np.generic], encoding: str) -> NDArray[np.float32]:
    """Stored image -> channel values, float32 (H, W, C), channels as `FIELDS[encoding]` names them.

    `muses_png16` becomes metres and raw intensity (v / 150 - 100, so a stored 15000 is empty);
    every other encoding keeps its numbers (8-bit ones 0..255, thermal ones unscaled counts: those
    are scaled by `scale_thermal`). SensorError where dtype or shape do not fit the encoding, or a
    value is not finite.
    """
    check_image(image, encoding)
    values = np.array(image, np.float32)
    if image.dtype.kind == "f" and not (np.abs(values) <= MAX_VALUE).all():
        raise SensorError(
            f"{encoding} image holds NaN or infinite values or some beyond {MAX_VALUE:g}, "
            "expected 0 where empty"
        )
    if encoding == "muses_png16" and image.dtype.kind == "u":
        values = values / 150.0 - 100.0
    return values if values.ndim == 3 else values[..., None]


def scale_thermal(
    image: NDArray[np.generic], encoding: str, limits: Limits | None = None
) -> NDArray[np.float32]:
    """Thermal image (h, w) as published -> float32 (h, w) in 0..255, as the weights' encoding says.

    mono8: uint8 as it is. mono16: uint16 counts, fixed limits (low, high) to 0 and 255, clipped.
    frame_gain: uint8 or uint16, the frame's own 1st and 99th percentile to 0 and 255, clipped; a
    frame whose contrast is the noise of its last bits gives 0. SensorError where dtype, shape or
    limits do not fit the encoding.
    """
    if encoding not in ENCODINGS["thermal"]:
        expected = ", ".join(ENCODINGS["thermal"])
        raise SensorError(f"thermal encoding is {encoding!r}, expected one of {expected}")
    check_image(image, encoding)
    check_limits("thermal limits", encoding, limits)
    scaled = image.astype(np.float32)
    if encoding == "mono8":
        return scaled
    low, high = limits or map(float, np.percentile(scaled, (1.0, 99.0)))
    if limits is None and high - low < _LEAST_CONTRAST:
        return np.zeros_like(scaled)
    scaled -= low
    scaled *= 255.0 / (high - low)
    return np.clip(scaled, 0.0, 255.0, out=scaled)

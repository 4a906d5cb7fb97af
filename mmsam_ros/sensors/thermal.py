# SPDX-License-Identifier: Apache-2.0
"""Scaling thermal images to 0..255. Which way belongs to the weights, never to the frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.encodings import ENCODINGS, check_image
from mmsam_ros.sensors.errors import SensorError

_LEAST_CONTRAST = 4.0  # counts; stretched to 0..255, less would be a picture of noise


def scale_thermal(
    image: NDArray[np.generic], encoding: str, limits: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Thermal image (h, w) as published -> float32 (h, w) in 0..255.

    mono8: uint8 as it is. mono16: uint16 counts, fixed limits (low, high) to 0 and 255, clipped.
    frame_gain: uint8 or uint16, the frame's own 1st and 99th percentile to 0 and 255, clipped; a
    frame whose contrast is its last bits' noise gives 0. Only mono16 takes limits, and needs them.
    SensorError for a dtype or shape that does not fit the encoding, and for unusable limits.
    """
    if encoding not in ENCODINGS["thermal"]:
        expected = ", ".join(ENCODINGS["thermal"])
        raise SensorError(f"thermal encoding is {encoding!r}, expected one of {expected}")
    check_image(image, encoding)
    if (limits is not None) != (encoding == "mono16"):
        expected = "(low, high)" if encoding == "mono16" else "none"
        raise SensorError(f"thermal limits for {encoding} are {limits}, expected {expected}")
    if encoding == "mono8":
        return image.astype(np.float32)
    if limits is not None:
        low, high = limits
        if not (np.isfinite(limits).all() and low < high):
            raise SensorError(f"thermal limits are {limits}, expected finite low < high")
    else:
        low, high = _percentiles(image)
        if high - low < _LEAST_CONTRAST:
            return np.zeros(image.shape, np.float32)
    scaled = image.astype(np.float32)
    scaled -= low
    scaled *= 255.0 / (high - low)
    return np.clip(scaled, 0.0, 255.0, out=scaled)


def _percentiles(image: NDArray[np.generic]) -> tuple[float, float]:
    if image.size == 0:
        raise SensorError(f"thermal image has shape {image.shape}, expected at least one pixel")
    low, high = np.percentile(image.astype(np.float32), (1.0, 99.0))
    return float(low), float(high)

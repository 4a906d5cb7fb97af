# SPDX-License-Identifier: Apache-2.0
"""Scaling thermal images to 0..255. Which way belongs to the weights, never to the frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.encodings import ENCODINGS, check_image
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.modalities import Limits, check_limits

_LEAST_CONTRAST = 4.0  # counts; stretched to 0..255, less would be a picture of noise


def scale_thermal(
    image: NDArray[np.generic], encoding: str, limits: Limits | None = None
) -> NDArray[np.float32]:
    """Thermal image (h, w) as published -> float32 (h, w) in 0..255.

    mono8: uint8 as it is. mono16: uint16 counts, fixed limits (low, high) to 0 and 255, clipped.
    frame_gain: uint8 or uint16, the frame's own 1st and 99th percentile to 0 and 255, clipped; a
    frame whose contrast is the noise of its last bits gives 0.

    Raises:
        SensorError: dtype or shape do not fit the encoding, or the limits do not.
    """
    if encoding not in ENCODINGS["thermal"]:
        expected = ", ".join(ENCODINGS["thermal"])
        raise SensorError(f"thermal encoding is {encoding!r}, expected one of {expected}")
    check_image(image, encoding)
    check_limits("thermal limits", encoding, limits)
    scaled = image.astype(np.float32)
    if encoding == "mono8":
        return scaled
    if limits is not None:
        low, high = limits
    else:
        low, high = map(float, np.percentile(scaled, (1.0, 99.0)))
        if high - low < _LEAST_CONTRAST:
            return np.zeros(image.shape, np.float32)
    scaled -= low
    scaled *= 255.0 / (high - low)
    return np.clip(scaled, 0.0, 255.0, out=scaled)

# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG to pixels, the same for messages and files."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.errors import SensorError

_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def decode_image(data: bytes, flags: int) -> NDArray[Any]:
    """The pixels of a JPEG or PNG as OpenCV gives them.

    Args:
        data: the whole file.
        flags: of `cv2.imdecode`.

    Returns:
        (H, W) or (H, W, C) in the order B, G, R.

    Raises:
        SensorError: the data is empty, broken or cut off.
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

# SPDX-License-Identifier: Apache-2.0
"""How each sensor's image or raster is stored, what its channels mean, and checks of both."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.errors import SensorError

Limits = tuple[float, float]
_COLOUR, _RASTER = ("red", "green", "blue"), ("range", "intensity", "height")
_SINGLE = ("value",)

# Encoding -> the names of its channels, and the dtypes that it may have.
_STORED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rgb8": (_COLOUR, ("uint8",)),
    "png8": (_COLOUR, ("uint8",)),
    "muses_raw": (_RASTER, ("float32",)),
    "muses_png16": (_RASTER, ("uint16", "float32")),  # float32 holds metres already
    "event_counts": (("positive", "negative", "zero"), ("uint8",)),
    "mono8": (_SINGLE, ("uint8",)),
    "mono16": (_SINGLE, ("uint16",)),
    "frame_gain": (_SINGLE, ("uint8", "uint16")),
}

FIELDS: Mapping[str, tuple[str, ...]] = {name: fields for name, (fields, _) in _STORED.items()}
"""Encoding -> the names of its channels, in stored order."""

ENCODINGS: Mapping[str, tuple[str, ...]] = {
    "camera": ("rgb8",),
    "lidar": ("muses_raw", "png8", "muses_png16"),
    "thermal": ("mono8", "mono16", "frame_gain"),
    "event": ("png8", "event_counts"),
    "depth": ("png8",),
}
"""Sensor -> the encodings that it may have."""

MAX_VALUE = 1e9
"""No sensor measures more; squares of such values still fit float32, within the network as well."""


def check_image(image: NDArray[np.generic], encoding: str) -> None:
    """Raise SensorError unless dtype and shape of a stored image fit its encoding.

    Three-channel encodings are (H, W, 3), single-channel ones (H, W); either byte order will do.
    """
    if encoding not in FIELDS:
        raise SensorError(f"encoding is {encoding!r}, expected one of {', '.join(FIELDS)}")
    fields, dtypes = _STORED[encoding]
    if image.dtype.name not in dtypes:
        expected = " or ".join(dtypes)
        raise SensorError(f"{encoding} image: dtype is {image.dtype}, expected {expected}")
    channels = () if len(fields) == 1 else (len(fields),)
    if image.ndim < 2 or image.shape[2:] != channels or 0 in image.shape:
        expected = f"(H, W, {len(fields)})" if channels else "(H, W)"
        raise SensorError(f"{encoding} image: shape is {image.shape}, expected {expected}")


def check_limits(name: str, encoding: str, limits: Limits | None) -> None:
    """SensorError unless limits are there for `mono16` alone, finite and ordered."""
    if encoding != "mono16":
        if limits is not None:
            raise SensorError(f"{name}: found {limits} for {encoding}, expected none")
    elif limits is None or not -math.inf < limits[0] < limits[1] < math.inf:
        raise SensorError(f"{name}: found {limits}, expected finite counts (low, high), low < high")
